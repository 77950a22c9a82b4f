"""The Python calls: one file a verb, the same records back as the command line prints."""
