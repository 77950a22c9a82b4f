"""What runs tasks: this process, or Ray."""
