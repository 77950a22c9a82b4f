"""Runs plans: scanning sources, solving layer groups in process or on Ray, publishing, verifying."""
