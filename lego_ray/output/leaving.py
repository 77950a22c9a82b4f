"""A merge as it leaves the machine: adapters by name and hash, in place of local paths.

Card, manifest and running sums of a published copy say which adapters went in, not where their owner
keeps them. A hash of the place stays, so that an update still knows a place when it sees it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from lego_ray.output.manifest import MANIFEST_KEY, encode_manifest
from lego_ray.output.publish_record import CARD

STATE_KEY = "lego_ray_running_sums.dat"
PLACE = "place_sha256"


def is_local(uri: str) -> bool:
    """Whether a normalized URI is a path on this machine."""
    return uri.startswith("/")


def is_placeless(uri: str) -> bool:
    """Whether a manifest names an adapter without its place, as one does that was published."""
    return not is_local(uri) and "://" not in uri


def hash_of_place(uri: str) -> str:
    """What stands for a place in a manifest that left the machine."""
    return hashlib.sha256(uri.encode()).hexdigest()


def for_elsewhere(
    manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A merge without the local paths of its sources, and otherwise as it is.

    Args:
        manifest: Its manifest.
        files: Its files, the manifest among them.

    Returns:
        The manifest and the files to publish; the adapter's own bytes do not change.
    """
    names = _names(manifest)
    if not names:
        return dict(manifest), dict(files)
    out = dict(files)
    if CARD in out:
        out[CARD] = _renamed(out[CARD].decode(errors="surrogateescape"), names).encode(
            errors="surrogateescape"
        )
    if STATE_KEY in out:
        from lego_ray.output.running_sums import with_about

        out[STATE_KEY] = with_about(out[STATE_KEY], lambda about: _state(about, names))
    told = _everywhere(_with_hashes(json.loads(files[MANIFEST_KEY])), names)
    told["recipe"] = _recipe(told["recipe"])
    for key in {CARD, STATE_KEY} & told["files"].keys() & out.keys():
        told["files"][key] = {
            "bytes": len(out[key]),
            "sha256": hashlib.sha256(out[key]).hexdigest(),
        }
    out[MANIFEST_KEY] = encode_manifest(told)
    return {**manifest, **told}, out


def _names(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What to write for each local path, the longest path first."""
    ids = {s["uri"]: s["adapter_id"] for s in manifest["sources"] if is_local(s["uri"])}
    places = set(ids)
    places |= {r["adapter"] for r in manifest.get("refused", ()) if is_local(r["adapter"])}
    parent = str((manifest.get("parent") or {}).get("uri") or "")
    places |= {parent} if is_local(parent) else set()
    last = {place: _last(place) for place in places}
    shared = list(last.values())
    names = {
        place: name if shared.count(name) == 1 or place not in ids else f"{name}@{ids[place][:8]}"
        for place, name in last.items()
    }
    # What reasons name beside the adapters: other files of the same folders.
    above = {place.rpartition("/")[0] + "/": "" for place in places}
    above.pop("/", None)
    return dict(sorted({**above, **names}.items(), key=lambda each: -len(each[0])))


def _last(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for place, name in names.items():
        text = text.replace(place, name)
    return text


def _everywhere(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _renamed(value, names)
    if isinstance(value, Mapping):
        return {_renamed(k, names): _everywhere(v, names) for k, v in value.items()}
    return [_everywhere(v, names) for v in value] if isinstance(value, list | tuple) else value


def _with_hashes(manifest: dict[str, Any]) -> dict[str, Any]:
    manifest["sources"] = list(map(_with_hash, manifest["sources"]))
    return manifest


def _with_hash(source: Mapping[str, Any]) -> dict[str, Any]:
    if not is_local(source["uri"]):
        return dict(source)
    return {**source, PLACE: hash_of_place(source["uri"])}


def _state(about: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    for key in ("fitted", "added"):
        about[key] = [_everywhere(_with_hash(source), names) for source in about[key]]
    return about


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with names and patterns that are still local paths cut to their last part."""
    mode, colon, kept = str(recipe.get("full_weights", "refuse")).partition(":")
    return {
        **recipe,
        "full_weights": f"{mode}{colon}{_cut(kept)}",
        "exclude": [*map(_cut, recipe.get("exclude", ()))],
        "weights": {_cut(name): w for name, w in recipe.get("weights", {}).items()},
        **({"base": _cut(recipe["base"])} if recipe.get("base") else {}),
    }


def _cut(name: str) -> str:
    return _last(name) if is_local(name) else name


def places_of(sources: Iterable[Mapping[str, Any]]) -> set[str]:
    """Hashes of the places of a merge's sources, whether its manifest has them or their hashes."""
    return {str(s.get(PLACE) or hash_of_place(s["uri"])) for s in sources}
