"""Rows to put into a catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def adapter(**changes: Any) -> dict[str, Any]:
    return {
        "adapter_id": "a" * 64,
        "uri": "/zoo/a",
        "revision": None,
        "base_model": "base",
        "format": "peft",
        "rank_min": 4,
        "rank_max": 8,
        "n_sites": 2,
        "n_params": 1000,
        "n_bytes": 2**33,
        "dtype": "BF16",
        "license": "mit",
        "tags": {"task": "qa", "language": "en"},
        "status": "ok",
        "reason": None,
        "scanned_at": NOW,
        **changes,
    }


def refused(**changes: Any) -> dict[str, Any]:
    return {
        "uri": "/zoo/bad",
        "status": "refused",
        "reason": "MalformedAdapter: truncated",
        "scanned_at": NOW,
        **changes,
    }


def merge(**changes: Any) -> dict[str, Any]:
    return {
        "merge_id": "m" * 64,
        "name": "support",
        "version": 1,
        "parent_id": None,
        "method": "lego",
        "rank": 8,
        "recipe": "{}",
        "seed": 2**62,
        "adapter_ids": ["a" * 64, "b" * 64],
        "output_uri": "/out/support",
        "content_hash": "c" * 64,
        "status": "ok",
        "created_at": NOW,
        "seconds": 1.5,
        "versions": {"lego-ray": "0.1.0", "torch": "2.7.0"},
        "licenses": ["mit", "unknown"],
        "license_conflicts": [],
        "output_adapter_id": "o" * 64,
        "n_sites": 2,
        "n_msus": 5,
        "stages": [{"stage": "solve", "seconds": 1.25, "bytes": 2**33}],
        "drift": None,
        **changes,
    }


def site(**changes: Any) -> dict[str, Any]:
    return {
        "merge_id": "m" * 64,
        "site": "layers.0.q_proj",
        "d_in": 64,
        "d_out": 32,
        "n_msus": 4,
        "rank": 2,
        "inertia": 0.25,
        "iterations": 3,
        "relative_error": 0.5,
        "norm_ratio": 0.9,
        **changes,
    }


def msu(**changes: Any) -> dict[str, Any]:
    return {
        "merge_id": "m" * 64,
        "site": "layers.0.q_proj",
        "adapter_id": "a" * 64,
        "rank_index": 0,
        "cluster": 0,
        "distance": 0.125,
        "weight": 0.5,
        **changes,
    }


def group(**changes: Any) -> dict[str, Any]:
    return {
        "grouping_id": "g" * 64,
        "name": "help",
        "group_name": "help-1",
        "merge_id": None,
        "adapter_id": "a" * 64,
        "uri": "/zoo/a",
        "status": "member",
        "similarity": 0.5,
        "nearest_group": None,
        "nearest_similarity": None,
        "silhouette": None,
        "found_at": NOW,
        **changes,
    }


def trial(**changes: Any) -> dict[str, Any]:
    return {
        "study_id": "s" * 64,
        "name": "support",
        "trial": 0,
        "parameters": "{}",
        "status": "ok",
        "reason": None,
        "value": 0.5,
        "score": 0.5,
        "tasks": [("qa", 0.25), ("chat", 0.75)],
        "seconds": 1.5,
        "merge_id": None,
        "recorded_at": NOW,
        **changes,
    }


def details(merge_id: str = "m" * 64) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two sites of one merge; adapter a gave two ranks to each, adapter b one to the first."""
    sites = [site(merge_id=merge_id, site=name) for name in ("layers.1.q_proj", "layers.0.q_proj")]
    msus = [
        msu(merge_id=merge_id, site=name, rank_index=i, cluster=i)
        for name in ("layers.0.q_proj", "layers.1.q_proj")
        for i in range(2)
    ]
    msus.append(msu(merge_id=merge_id, adapter_id="b" * 64, cluster=1))
    return sites, msus
