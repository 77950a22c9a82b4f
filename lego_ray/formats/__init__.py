"""Bytes to values and back: adapter records, PEFT's files, what is refused and why. Opens no path."""
