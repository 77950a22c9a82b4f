"""Pages for people: what a merge was."""
