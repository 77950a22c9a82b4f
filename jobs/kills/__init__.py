"""Kills a command before each call that changes a file, runs it again, and compares the outcome."""
