"""A library: from the entries of a recipe to its merges, groups of adapters, and what is current."""
