"""A new version of a merge from the running sums of the one before."""
