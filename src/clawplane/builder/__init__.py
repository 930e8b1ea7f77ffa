"""Turn a Worker's dependency files into a cached, read-only environment."""
