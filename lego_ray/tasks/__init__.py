"""What a worker does: it reads byte ranges, pools them, and solves sites."""
