"""k-means over the MSUs of a site, in one place or in shards, to the same bits."""
