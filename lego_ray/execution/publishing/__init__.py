"""From solved sites to files, a manifest and rows of the catalog, each written once."""
