"""The sidecar beside a merged adapter: what went in, with hashes, and what came out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.peft_config import CONFIG_NAME, WEIGHTS_NAME
from lego_ray.formats.strict_json import parse_object
from lego_ray.storage.base import Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.keys import check_key

if TYPE_CHECKING:
    from lego_ray.formats.record import AdapterRecord, Refused
    from lego_ray.planning.plan import Plan

MANIFEST_KEY = "lego_ray_manifest.json"
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
        more: What is said of a later version besides, such as its parent.
    """
    return {
        **more,
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
    """The plan's warnings, licenses apart, with adapters by name instead of by place."""
    found = [warning for warning in plan.warnings if warning not in plan.license_conflicts]
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


def _of(kind: type, *, inside: type | None = None) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        if isinstance(value, bool) and kind is not bool:
            return False
        if inside is None or not isinstance(value, kind):
            return isinstance(value, kind)
        held = value.values() if isinstance(value, dict) else value
        return all(isinstance(each, inside) for each in held)  # type: ignore[attr-defined]

    return fits


def _number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _optional_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _refusals(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(r, dict)
        and all(isinstance(r.get(key), str) for key in ("adapter", "reason"))
        and all(
            isinstance(r.get(key, ""), str)
            for key in ("status", "adapter_id", "version", "tensors_sha256")
        )
        for r in value
    )


def _parent(value: object) -> bool:
    return isinstance(value, dict) and all(
        _optional_text(value.get(key)) for key in ("merge_id", "uri")
    )


# What may be missing, as an earlier release did not write it; where it is there, it is of a type.
_FIELDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("requested_plan", "dtype", "format", "weights", "marker"), _of(str)),
    "base_model": _optional_text,
    "licenses": _of(list, inside=str),
    "license_conflicts": _of(list, inside=str),
    "limits": _of(list, inside=str),
    "warnings": _of(list, inside=str),
    "sites": _of(int),
    "nearest_error": _number,
    "refused": _refusals,
    "versions": _of(dict, inside=str),
    "version": _of(int),
    "parent": _parent,
    "drift": _number,
}
_SOURCE_FIELDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("tensors_sha256", "version", "revision"), _of(str)),
    "license": _optional_text,
    "rank_min": _of(int),
    "rank_max": _of(int),
    "weight": _number,
    "notes": _of(list, inside=str),
}


def _are_of_type(fields: Mapping[str, Any], types: Mapping[str, Callable[[object], bool]]) -> bool:
    return all(fits(fields[name]) for name, fits in types.items() if name in fields)


def read_bytes(store: Store) -> bytes:
    """Reads a manifest's file, unless it is larger than any.

    Raises:
        ObjectNotFound: If there is none.
        StorageError: If it is too large.
    """
    return read_at_most(store, MANIFEST_KEY, LARGEST)


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    """Whether all is there that readers of a manifest rely on; what they read else may be missing."""
    files, sources = manifest["files"], manifest["sources"]
    return (
        isinstance(manifest["merge_id"], str)
        and isinstance(manifest["name"], str)
        and isinstance(manifest["recipe"], dict)
        and isinstance(manifest["recipe"]["method"], str)
        and isinstance(files, dict)
        and all(
            isinstance(f["bytes"], int) and isinstance(f["sha256"], str) for f in files.values()
        )
        and isinstance(sources, list)
        and all(isinstance(s["adapter_id"], str) and isinstance(s["uri"], str) for s in sources)
    )


def parse_manifest(data: bytes, uri: str) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        MalformedAdapter: If it is not one, of a version this release does not know, or has a field of
            another type than it must be.
    """
    try:
        manifest = parse_object(data, f"{uri}/{MANIFEST_KEY}")
        known = manifest["manifest_version"] == MANIFEST_VERSION
        complete = _is_complete(manifest)
    except (MalformedAdapter, KeyError, TypeError):
        known = complete = False
    if not (known and complete):
        raise MalformedAdapter(
            f"{uri}/{MANIFEST_KEY}",
            f"this is not a lego-ray manifest of version {MANIFEST_VERSION}",
            "Merge again to another output.",
        )
    sources: Any = manifest["sources"]
    typed = _are_of_type(manifest, _FIELDS)
    if not (typed and all(_are_of_type(source, _SOURCE_FIELDS) for source in sources)):
        raise MalformedAdapter(
            f"{uri}/{MANIFEST_KEY}",
            "some of its fields are of other types than lego-ray writes",
            "Merge again to another output.",
        )
    recipe: Any = manifest["recipe"]
    return {
        "sites": 0,
        "refused": [],
        **manifest,
        "recipe": {"rank": None, **recipe},
    }


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
