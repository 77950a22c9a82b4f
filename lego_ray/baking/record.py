"""The record of a merge that was written into its base model, or would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.records import Record


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BakeRecord(Record):
    """What was written, or would be.

    Attributes:
        merged: URI of the adapter.
        adapter_id: Its id, as in the catalog.
        base: URI of the base model, at the commit where there is one.
        output: URI of the model that was made.
        bake_id: Hex sha256 over what determines it: the adapter, the base model's weights and the type.
        status: `baked`, `already baked` or, of a dry run, `would bake`.
        dry_run: Whether nothing was written.
        dtype: Element type of its weights: F32, F16 or BF16, or `base` where it is the base model's.
        changes: Each with `tensor`, `file`, `shape`, `updates` (pairs of factors added) and `replaced`
            (whether the adapter's own tensor takes its place first).
        tensors: Number of tensors of the base model.
        files: Each with `path`, `bytes`, `sha256` (None of a dry run) and `action`: `change` or `copy`.
        not_copied: Files of the base model with weights that it is not loaded from.
        warnings: What the user should know.
    """

    merged: str
    adapter_id: str
    base: str
    output: str
    bake_id: str
    status: str
    dry_run: bool
    dtype: str
    changes: tuple[Mapping[str, Any], ...]
    tensors: int
    files: tuple[Mapping[str, Any], ...]
    not_copied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.status}: {len(self.changes)} of {self.tensors} tensors "
            f"changed, {self.output}>"
        )
