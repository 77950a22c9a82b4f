"""Merge methods: one a file, all behind `base.MergeMethod`; the registry lists them."""
