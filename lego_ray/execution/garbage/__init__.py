"""What merges left behind and no catalog row refers to: found, and deleted."""
