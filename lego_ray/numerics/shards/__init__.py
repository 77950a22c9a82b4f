"""A pool in shards: what one shard computes, and all of them seen as one pool."""
