"""Writes a base model with an adapter in it: create-only, file by file, what makes it a model last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lego_ray.baking.base_content import (
    HASHES,
    MARKS,
    base_marks,
    check_same_base,
    confirm_base,
    copied,
    hash_of,
    through,
)
from lego_ray.baking.changes import Change, changes_of
from lego_ray.baking.files import CARD, Parts, files_of
from lego_ray.baking.record import BakeRecord
from lego_ray.baking.state import (
    BAKE_VERSION,
    MANIFEST,
    but_for_marks,
    end,
    finished,
    read_manifest,
    start,
)
from lego_ray.errors import (
    AlreadyExists,
    NoAdaptersFound,
    ObjectNotFound,
    OutputExists,
    UnsupportedAdapter,
)
from lego_ray.formats.factors import some
from lego_ray.formats.peft_beside import beside_factors, site_of_bias
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.manifest import versions
from lego_ray.sources.base_layers import sites_of_two
from lego_ray.sources.base_model import BaseModel, read_base
from lego_ray.sources.confirm import confirm
from lego_ray.sources.contents import read_content
from lego_ray.sources.headers import Counted, scan_sources
from lego_ray.storage.base import Store
from lego_ray.storage.places import Place
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.versions import changed
from lego_ray.tasks.solve import one_thread


def run_bake(
    merged: Place, base_place: Place, output: Place, dtype: str, *, dry_run: bool, progress: Counted
) -> BakeRecord:
    """Bakes an adapter into its base model; see `api.bake` for the promise."""
    adapter = _adapter(merged)
    base = read_base(base_place)
    changes = changes_of(adapter, base)
    bake_id = _id(adapter, base, dtype)
    store = output.open()
    contents: dict[str, str] = {}
    files = files_of(adapter, base, changes, dtype, contents)
    warnings = _warnings(adapter, base)

    def record(status: str, hashes: Mapping[str, Any]) -> BakeRecord:
        return BakeRecord(
            merged=adapter.uri,
            adapter_id=adapter.adapter_id,
            base=base.uri,
            output=store.uri,
            bake_id=bake_id,
            status=status,
            dry_run=dry_run,
            dtype=dtype,
            changes=tuple(map(_told, changes.values())),
            tensors=sum(len(each.tensors) for each in base.components),
            files=tuple(
                {
                    "path": key,
                    "bytes": size,
                    "sha256": hashes[key]["sha256"] if key in hashes else None,
                    "action": action,
                }
                for key, (size, action, _) in files.items()
            ),
            not_copied=base.left,
            warnings=warnings,
        )

    done = finished(store, bake_id, list(files)[-1])
    if done is not None:
        check_same_base(base, done, store.uri)
        if not dry_run:
            end(store)
        return record("already baked", done["files"])
    if dry_run:
        return record("would bake", {})
    probe_create_only(store)
    start(store, bake_id)
    *most, marker = files
    hashes: dict[str, dict[str, Any]] = {}
    with one_thread():
        for number, key in enumerate(most):
            hashes[key] = _write(store, key, *files[key])
            progress(number + 1, len(files))
        size, _, parts = files[marker]
        hashes[marker] = {"bytes": size, "sha256": hash_of(parts)}
        _confirm(adapter, base)
        manifest = {
            "bake_version": BAKE_VERSION,
            "bake_id": bake_id,
            "adapter": {"uri": _shown(adapter.uri, store), "adapter_id": adapter.adapter_id},
            "base": {
                "uri": _shown(base.uri, store),
                "files": base.identity(_weights(base)),
                HASHES: contents,
                MARKS: base_marks(base),
            },
            "dtype": dtype,
            "changed": sorted(name for _, name in changes),
            "warnings": list(warnings),
            "files": hashes,
            "versions": versions(),
        }
        if but_for_marks(read_manifest(store)) != but_for_marks(manifest):
            data = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
            _write(store, MANIFEST, len(data), "change", lambda: iter((data,)))

        def held() -> Iterator[bytes]:
            """The marker's bytes, whose end does not come if they are not those of the manifest."""
            digest = hashlib.sha256()
            yield from through(digest, parts())
            _confirm(adapter, base)
            if digest.hexdigest() != hashes[marker]["sha256"]:
                raise changed(base.uri)

        _write(store, marker, *files[marker][:2], held)
    progress(len(files), len(files))
    end(store)
    return record("baked", hashes)


def _adapter(place: Place) -> AdapterRecord:
    found = scan_sources([place], full_weights="keep", checkpoints="all").inventory
    if len(found.adapters) == 1:
        [adapter] = found.adapters
        _check_added(adapter)
        return adapter
    if found.adapters:
        problem = f"there are {len(found.adapters)} adapters there, and one is baked"
        raise NoAdaptersFound(str(place), problem, f"Give one of them: {found.adapters[0].uri}.")
    reason = found.refused[0].reason.rstrip(".") if found.refused else "there is none there"
    raise NoAdaptersFound(str(place), f"no adapter can be baked: {reason}")


def _check_added(adapter: AdapterRecord) -> None:
    """Passes an adapter that only has what can be added to a tensor of the base model.

    Raises:
        UnsupportedAdapter: If it has rows of tokens, or modulations.
    """
    names = [each.span.name for each in adapter.differences if each.part == "modulation"]
    beside = beside_factors(span.name for span in adapter.full_weights)
    names += [name for name in beside if not site_of_bias(name)]
    if names:
        problem = (
            "bake does not add rows of tokens and differences of modulations, and it has some: "
            f"{some(names)}"
        )
        hint = (
            "Merge again with --full-weights drop, or let PEFT or ComfyUI merge it into the model."
        )
        raise UnsupportedAdapter(adapter.uri, problem, hint)


def _confirm(adapter: AdapterRecord, base: BaseModel) -> None:
    """Passes an adapter and a base model that are as they were when they were read.

    Raises:
        SourceChanged: If a file of one of them is not.
    """
    confirm((adapter,))
    confirm_base(base)


def _weights(base: BaseModel) -> Iterator[Any]:
    for component in base.components:
        yield from component.files


def _id(adapter: AdapterRecord, base: BaseModel, dtype: str) -> str:
    about = {
        "bake_version": BAKE_VERSION,
        "adapter": [adapter.adapter_id, read_content(adapter).whole],
        "base": base.identity(_weights(base)),
        "dtype": dtype,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _warnings(adapter: AdapterRecord, base: BaseModel) -> tuple[str, ...]:
    found = list(adapter.notes)
    if unsure := sites_of_two((c.folder for c in base.components), (s.site for s in adapter.sites)):
        found.append(
            f"the base model has two transformers with the same modules, and {unsure[0]} may be of "
            "either: the update is in the one in `transformer`. For the other, give its folder with "
            "--base"
        )
    if base.left:
        found.append(
            f"not copied, as the model is not loaded from them: {', '.join(base.left[:5])}"
            + (f" and {len(base.left) - 5} more" if len(base.left) > 5 else "")
        )
    return tuple(found)


def _told(change: Change) -> dict[str, Any]:
    span = change.tensor.span
    return {
        "tensor": span.name,
        "file": change.tensor.file.key,
        "shape": list(span.shape),
        "updates": sum(len(update.factors) for update in change.updates),
        "replaced": change.replaced_by is not None,
        "differences": len(change.added),
    }


def _shown(uri: str, output: Store) -> str:
    """A place as an output names it: without local paths if it leaves the machine."""
    is_path = "://" not in uri
    return uri.rpartition("/")[2] if is_path and not output.place.is_local else uri


def _write(store: Store, key: str, size: int, action: str, parts: Parts) -> dict[str, Any]:
    """Writes a file; one that an earlier run wrote is taken if it has the same bytes."""
    try:
        there = store.stat(key)
    except ObjectNotFound:
        there = None
    if there is None:
        digest = hashlib.sha256()
        try:
            store.create_from(key, size, through(digest, parts()))
            return {"bytes": size, "sha256": digest.hexdigest()}
        except AlreadyExists:
            there = store.stat(key)
    wanted = hash_of(parts)
    if there.size != size or hash_of(lambda: copied(store, there)) != wanted:
        if key == CARD and action == "change":  # for people to edit
            return {"bytes": size, "sha256": wanted}
        raise OutputExists(
            store.uri,
            f"{key} already exists, with other bytes",
            "Choose another --output, or delete that file and run the same command again.",
        )
    return {"bytes": size, "sha256": wanted}
