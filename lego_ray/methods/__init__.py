"""Merge methods: one per file, all behind `base.MergeMethod`; the registry lists them."""
