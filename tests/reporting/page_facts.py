"""Facts of merges that nobody made, of any size, to write pages of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from lego_ray.reporting.facts import (
    Alike,
    Cluster,
    Facts,
    Kept,
    Measured,
    Reach,
    Recorded,
    Share,
    SiteFacts,
)

KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
STAGES = ("scan", "start", "plan", "solve", "publish")


def facts(count: int, *, layers: int = 6, rank: int = 8, names: list[str] | None = None) -> Facts:
    """A merge of so many adapters in three families, catalog and sources available."""
    rng = np.random.default_rng(0)
    names = names or [f"team-{i % 7}/adapter-{i:04d}" for i in range(count)]
    sites = [f"model.layers.{layer}.{kind}" for layer in range(layers) for kind in KINDS]
    families = rng.normal(size=(3, 30))
    vectors = families[np.arange(count) % 3] + 0.7 * rng.normal(size=(count, 30))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sizes = np.sort(rng.multinomial(4 * count, np.full(rank, 1 / rank), len(sites)))[:, ::-1]

    def facts_of(site: str) -> SiteFacts:
        error, norm_ratio = rng.uniform(0.5, 0.9, 2)
        inertia, source_norm, merged_norm = rng.uniform(1, 9, 3)
        return SiteFacts(
            site, error, norm_ratio, 4 * count, rank, inertia, source_norm, merged_norm
        )

    shares = rng.multinomial(4 * len(sites), np.full(rank, 1 / rank), count)
    return Facts(
        place="/library/merged",
        manifest=manifest(names, len(sites), rank),
        names=names,
        sites=[facts_of(site) for site in sites],
        recorded=Recorded(
            {
                "created_at": datetime(2026, 3, 4, tzinfo=UTC),
                "seconds": 90.0,
                "stages": [
                    {"stage": stage, "seconds": 10.0 + i, "bytes": 2**20 * i}
                    for i, stage in enumerate(STAGES)
                ],
            },
            [
                Cluster(site, place, int(n), min(int(n), 2))
                for site, row in zip(sites, sizes, strict=True)
                for place, n in enumerate(row)
                if n
            ],
            [
                Reach(name, {p: int(n) for p, n in enumerate(row) if n}, int(row[-1]))
                for name, row in zip(names, shares, strict=True)
            ],
            [
                Share(name, float(row.sum()) / 8, int(row.sum()), rank)
                for name, row in zip(names, shares, strict=True)
            ],
        ),
        measured=Measured(
            {"relative_error_to_sum": 0.75},
            [Kept(name, *rng.uniform(0.1, 1, 3)) for name in names],
            Alike(names, unit @ unit.T, exact=count < 100),
        ),
    )


def manifest(names: list[str], sites: int, rank: int) -> dict[str, Any]:
    return {
        "merge_id": "5d9f" * 16,
        "name": "support",
        "base_model": "acme/base",
        "dtype": "BF16",
        "sites": sites,
        "recipe": {
            "method": "lego",
            "rank": rank,
            "ranks": {},
            "seed": 0,
            "options": {"n_init": 10},
        },
        "sources": [
            {
                "uri": f"/zoo/{n}",
                "adapter_id": f"{i:064x}",
                "rank_min": 4,
                "rank_max": 4,
                "weight": 1.0,
            }
            for i, n in enumerate(names)
        ],
        "refused": [
            {"adapter": "/zoo/bad", "status": "refused", "reason": "UnsupportedAdapter: it is DoRA"}
        ],
        "licenses": [],
        "license_conflicts": [],
        "files": {"adapter_model.safetensors": {"bytes": 2**20, "sha256": "ab" * 32}},
        "versions": {"lego-ray": "0.1.0"},
    }
