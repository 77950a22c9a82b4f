"""What the merges of real adapters can still do: zoos, merging at one scale, evaluation, a table."""
