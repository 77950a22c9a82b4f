"""Singular values and shared bases of sums of low-rank updates, from their factors."""
