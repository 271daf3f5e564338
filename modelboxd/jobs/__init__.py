"""Jobs of the daemon: where they come from, their life, and what is kept of them over restarts."""
