"""Keeping a catalog in order: its schema, its files, and rows that nothing refers to."""
