"""Planned merges to their end."""
