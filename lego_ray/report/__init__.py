"""What people read about a merge."""
