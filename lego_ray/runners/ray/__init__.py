"""The runner on Ray; Ray is imported in this folder alone."""
