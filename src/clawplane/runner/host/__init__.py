"""Host tasks on this machine: commands, file operations and agent CLIs, each with the runner's own rights."""
