"""Long runs in which everything goes wrong."""
