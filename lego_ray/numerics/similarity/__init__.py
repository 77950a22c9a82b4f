"""How alike updates are, and what follows of that: groups, and places in a plane."""
