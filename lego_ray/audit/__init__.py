"""A catalog held against its outputs; what runs left behind, found and deleted."""
