"""Thin Ray job entry points, and the benchmarks."""
