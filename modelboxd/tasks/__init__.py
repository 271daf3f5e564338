"""Tasks: pieces of work for jobs whose graphs have input nodes."""
