"""A merged adapter against its manifest and its sources, in numbers."""
