"""The sidecar beside a merged adapter: what went in, with hashes, and what came out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.forms import Form, Many, Table, read_as, sentence_of
from lego_ray.formats.fused import stored_count
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.strict_json import parse_object
from lego_ray.sources.listing import MERGE_MANIFEST
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.keys import check_key

if TYPE_CHECKING:
    from lego_ray.formats.record import AdapterRecord, Refused
    from lego_ray.planning.plan import Plan

MANIFEST_KEY = MERGE_MANIFEST
MANIFEST_VERSION = 1
PACKAGES = ("lego-ray", "torch", "numpy", "ray", "safetensors", "deltalake")


def versions() -> dict[str, str]:
    """Versions of what took part, by package name."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def manifest_of(
    plan: Plan,
    requested: str,
    source_hashes: Sequence[str],
    files: Mapping[str, bytes],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Describes a merge, without a clock, so that the same merge has the same manifest.

    Args:
        plan: The plan that was run.
        requested: Digest of the plan as first made, before any adapter was quarantined.
        source_hashes: Hex sha256 over each source's merged tensors, in plan order.
        files: The adapter's other files.
        more: Further entries of a later version, such as its parent.
    """
    sites = [site.site for task in plan.tasks for site in task.sites]
    stored = stored_count(sites)
    return {
        **more,
        **({"stored_sites": stored} if stored != len(sites) else {}),
        "manifest_version": MANIFEST_VERSION,
        "merge_id": plan.digest,
        "requested_plan": requested,
        "name": plan.recipe.name,
        "recipe": plan.recipe.as_json(),
        "base_model": plan.base_model,
        "dtype": plan.dtype,
        "format": plan.format,
        "weights": plan.weights_name,
        "marker": plan.marker,
        "licenses": list(plan.licenses),
        "license_conflicts": list(plan.license_conflicts),
        "limits": list(plan.limits),
        "warnings": _by_name(plan),
        "sites": plan.n_sites,
        "nearest_error": plan.nearest_error,
        "sources": sources_of(plan, source_hashes),
        "refused": [_refused(each) for each in plan.refused],
        "files": {
            key: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for key, data in sorted(files.items())
        },
        "versions": versions(),
    }


def _refused(adapter: Refused) -> dict[str, Any]:
    """An adapter that was left out. One whose weights were read has their hash: a repair changes it."""
    told = {"adapter": adapter.uri, "status": adapter.status, "reason": adapter.reason}
    if adapter.adapter_id:
        told["adapter_id"] = adapter.adapter_id
        told["version"] = adapter.version
        told["tensors_sha256"] = adapter.content
    return told


def _by_name(plan: Plan) -> list[str]:
    """The plan's warnings that are about the merge, with adapters by name instead of by place.

    Conflicts of licenses have a field of their own, and notes on the recipe are about the call.
    """
    elsewhere = {*plan.license_conflicts, *plan.recipe.notes}
    found = [warning for warning in plan.warnings if warning not in elsewhere]
    for uri in sorted((a.uri for a in plan.adapters), key=len, reverse=True) if found else ():
        name = uri.rstrip("/").rpartition("/")[2]
        found = [warning.replace(uri, name) for warning in found]
    return found


def sources_of(plan: Plan, source_hashes: Sequence[str]) -> list[dict[str, Any]]:
    """A plan's adapters, in its order; see `manifest_of`."""
    return [
        source_of(*each) for each in zip(plan.adapters, source_hashes, plan.weights, strict=True)
    ]


def source_of(adapter: AdapterRecord, tensors: str, weight: float) -> dict[str, Any]:
    """An adapter as a manifest lists it.

    Args:
        adapter: The adapter.
        tensors: Hex sha256 over its merged tensors.
        weight: Factor on its update.
    """
    return {
        "uri": adapter.uri,
        "adapter_id": adapter.adapter_id,
        "tensors_sha256": tensors,
        "version": adapter.version,
        "revision": adapter.revision,
        "license": adapter.license,
        "rank_min": min(adapter.ranks),
        "rank_max": max(adapter.ranks),
        "weight": weight,
        "notes": list(adapter.notes),
    }


def marker_of(manifest: Mapping[str, Any]) -> str:
    """The file that is written last, without which an output is no adapter yet."""
    return str(manifest.get("marker", CONFIG_NAME))


def weights_of(manifest: Mapping[str, Any]) -> str:
    """The file that holds the weights."""
    return str(manifest.get("weights", WEIGHTS_NAME))


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as a JSON file."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


# A thousand adapters take half a megabyte.
LARGEST = 64 << 20


class _Recipe(Form):
    method: str
    rank: int | None = None
    ranks: Table[int] = Field(default_factory=dict)


class _File(Form):
    bytes: int
    sha256: str


class Source(Form):
    """An adapter, as `source_of` lists it."""

    adapter_id: str
    uri: str
    tensors_sha256: str = ""
    version: str = ""
    revision: str = ""
    license: str | None = None
    rank_min: int = 0
    rank_max: int = 0
    weight: float = 1
    notes: Many[str] = ()


class _Refused(Form):
    adapter: str
    reason: str
    status: str = ""
    adapter_id: str = ""
    version: str = ""
    tensors_sha256: str = ""


class _Parent(Form):
    merge_id: str | None = None
    uri: str | None = None


class _Manifest(Form):
    """What readers of a manifest rely on. What has a default, an earlier release did not write."""

    manifest_version: Literal[1]  # MANIFEST_VERSION
    merge_id: str
    name: str
    recipe: _Recipe
    files: Table[_File]
    sources: Many[Source]
    requested_plan: str = ""
    base_model: str | None = None
    dtype: str = ""
    format: str = ""
    weights: str = ""
    marker: str = ""
    licenses: Many[str] = ()
    license_conflicts: Many[str] = ()
    limits: Many[str] = ()
    warnings: Many[str] = ()
    sites: int = 0
    stored_sites: int = 0
    nearest_error: float | None = None
    refused: Many[_Refused] = ()
    versions: Table[str] = Field(default_factory=dict)
    version: int = 1
    parent: _Parent | None = None
    drift: float | None = None


def read_bytes(store: Store) -> bytes:
    """Reads a manifest's file, unless it is larger than any.

    Raises:
        ObjectNotFound: If there is none.
        StorageError: If it is too large.
    """
    return read_at_most(store, MANIFEST_KEY, LARGEST)


def parse_manifest(data: bytes, uri: str) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        MalformedAdapter: If it is not one, of a version this release does not know, or has a field of
            another type than it must be.
    """
    where = f"{uri}/{MANIFEST_KEY}"

    def refused(faults: tuple[str, ...]) -> MalformedAdapter:
        problem = f"this is not a manifest of version {MANIFEST_VERSION}: {sentence_of(faults)}"
        return MalformedAdapter(where, problem, "Merge again to another output.")

    try:
        manifest = parse_object(data, where)
    except MalformedAdapter as error:
        raise refused((error.problem,)) from None
    read_as(_Manifest, manifest, refused)
    recipe: Any = manifest["recipe"]
    return {"sites": 0, "refused": [], **manifest, "recipe": {"rank": None, **recipe}}


def listed_files(manifest: Mapping[str, Any], uri: str) -> dict[str, str]:
    """Hex sha256 of the files beside a manifest, by key.

    A manifest may come from anyone, and its keys become files.

    Raises:
        MalformedAdapter: If it lacks the file that is written last, or lists the manifest itself.
        StorageError: If a key could reach outside the place.
    """
    listed = {key: entry["sha256"] for key, entry in manifest["files"].items()}
    last = marker_of(manifest)
    if last not in listed or MANIFEST_KEY in listed:
        raise MalformedAdapter(
            f"{uri}/{MANIFEST_KEY}",
            f"its list of files lacks {last}, or has the manifest itself",
            "Merge again to another output.",
        )
    for key in listed:
        check_key(uri, key)
    return listed
