"""Solving small zoos by any method, the pool whole or in shards."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lego_ray.methods.base import MergeMethod, SiteSolution
from lego_ray.methods.registry import method_of
from lego_ray.numerics.msu import msu_rows
from lego_ray.numerics.pool import Pool, pool_of
from lego_ray.numerics.shards.spread import LocalShards, SpreadPool

Adapters = list[tuple[Tensor, Tensor, float]]


def pools(adapters: Adapters, method: MergeMethod, cuts: list[int]) -> list[Pool]:
    """The adapters' pool, or its parts cut before these adapters; rows as they are read."""
    d_in = adapters[0][0].shape[1]
    return [
        pool_of([(t, method.prepare(msu_rows(*adapters[t]), d_in)) for t in range(*bounds)], d_in)
        for bounds in itertools.pairwise([0, *cuts, len(adapters)])
    ]


def solve(adapters: Adapters, name: str, k: int, seed: int = 0, **options: object) -> SiteSolution:
    method = method_of(name, options)
    [pool] = pools(adapters, method, [])
    return method.solve(pool, k, torch.Generator().manual_seed(seed))


def in_shards(
    adapters: Adapters, cuts: list[int], name: str, k: int, seed: int = 0, **options: object
) -> SiteSolution:
    method = method_of(name, options)
    shards = [method.shard(pool) for pool in pools(adapters, method, cuts)]
    generator = torch.Generator().manual_seed(seed)
    return method.solve_spread(SpreadPool(LocalShards(shards)), k, generator)
