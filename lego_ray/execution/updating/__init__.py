"""Versions of a merge: adapters added and removed without the others being read."""
