"""A merge as one HTML page that needs nothing else: what went in, what came of it, what it took."""
