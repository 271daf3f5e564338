"""What the server uses and does: processes, memory, jobs, nodes, workers."""
