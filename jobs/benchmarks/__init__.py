"""Benchmarks: lego-ray beside its peers, each in one run."""
