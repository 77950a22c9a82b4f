"""Runs tasks on Ray, a local one or a cluster; here alone Ray is imported."""
