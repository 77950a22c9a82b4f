"""Writes a base model with an adapter in it: create-only, file by file, what makes it a model last.

<output>/.lego-ray/bake.json      which bake the output is being made by; deleted at the end
<output>/lego_ray_bake.json       what went in, and the hashes of what came out; last but one
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lego_ray.baking.base_content import (
    HASHES,
    MARKS,
    base_marks,
    check_same_base,
    confirm_base,
    hash_of,
)
from lego_ray.baking.changes import Change, changes_of
from lego_ray.baking.record import BakeRecord
from lego_ray.baking.shards import shard_bytes, written_header, written_size
from lego_ray.baking.update import Factors
from lego_ray.errors import (
    AlreadyExists,
    NoAdaptersFound,
    ObjectNotFound,
    OutputExists,
    UnsupportedAdapter,
)
from lego_ray.formats.base_weights import CONFIG, PIPELINE
from lego_ray.formats.factors import some
from lego_ray.formats.peft_beside import beside_factors, site_of_bias
from lego_ray.formats.record import AdapterRecord
from lego_ray.output.checkpoints.run_folder import FOLDER, check_folder
from lego_ray.output.damage import damaged_files
from lego_ray.output.manifest import versions
from lego_ray.output.write import listed_output
from lego_ray.sources.base_layers import sites_of_two
from lego_ray.sources.base_model import BaseModel, read_base
from lego_ray.sources.confirm import confirm
from lego_ray.sources.contents import read_content
from lego_ray.sources.headers import Counted, scan_sources
from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.bounded import read_at_most
from lego_ray.storage.places import Place
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.remains import is_probe, is_temporary
from lego_ray.storage.versions import changed
from lego_ray.tasks.solve import one_thread

MANIFEST = "lego_ray_bake.json"
_STARTED = f"{FOLDER}bake.json"
_VERSION = 1
_LARGEST = 64 << 20
_PIECE = 16 << 20
_CARD = "README.md"

Parts = Callable[[], Iterator[bytes]]


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
    files = _files(adapter, base, changes, dtype, contents)
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

    done = _state(store, bake_id, list(files)[-1])
    if done is not None:
        check_same_base(base, done, store.uri)
        if not dry_run:
            _end(store)
        return record("already baked", done["files"])
    if dry_run:
        return record("would bake", {})
    probe_create_only(store)
    _start(store, bake_id)
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
            "bake_version": _VERSION,
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
        if _but_for_marks(_read_manifest(store)) != _but_for_marks(manifest):
            data = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
            _write(store, MANIFEST, len(data), "change", lambda: iter((data,)))

        def held() -> Iterator[bytes]:
            """The marker's bytes, whose end does not come if they are not those of the manifest."""
            digest = hashlib.sha256()
            for part in parts():
                digest.update(part)
                yield part
            _confirm(adapter, base)
            if digest.hexdigest() != hashes[marker]["sha256"]:
                raise changed(base.uri)

        _write(store, marker, *files[marker][:2], held)
    progress(len(files), len(files))
    _end(store)
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
        "bake_version": _VERSION,
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


def _files(
    adapter: AdapterRecord,
    base: BaseModel,
    changes: Mapping[tuple[str, str], Change],
    dtype: str,
    contents: dict[str, str],
) -> dict[str, tuple[int, str, Parts]]:
    """Size, action and bytes of each file of the output, the one that makes it a model last.

    The full hash of a base model's file is put into `contents` when its bytes have been made.
    """
    factors = Factors(adapter)
    touched = {key for key, _ in changes}
    out: dict[str, tuple[int, str, Parts]] = {}
    last = ""
    for component in base.components:
        below = f"{component.folder}/" if component.folder else ""
        for file in component.files:
            # A part of a pipeline that the adapter does not touch stays as it is.
            mine = dtype if any(f.key in touched for f in component.files) else "base"
            size = len(written_header(file, mine)) + sum(written_size(s, mine) for s in file.spans)

            def parts(file: Any = file, mine: str = mine) -> Iterator[bytes]:
                digest = hashlib.sha256()
                yield from shard_bytes(base.store, file, changes, factors, mine, digest.update)
                contents[file.key] = digest.hexdigest()

            is_changed = file.key in touched or mine != "base"
            out[file.key] = (size, "change" if is_changed else "copy", parts)
        if component.listing is not None:
            grown = sum(written_size(s, dtype) for f in component.files for s in f.spans)
            data = base.store.read(component.index, component.listing.version)
            contents[component.index] = hashlib.sha256(data).hexdigest()
            if dtype != "base" and any(f.key in touched for f in component.files):
                data = _with(data, "metadata", {"total_size": grown})
            out[component.index] = (len(data), "copy", lambda data=data: iter((data,)))  # type: ignore[misc]
        last = component.index or base.file or below + CONFIG
    for info in base.others:
        if info.key in (_CARD, MANIFEST):
            continue
        if info.key.rpartition("/")[2] == CONFIG and dtype != "base":
            data = base.store.read(info.key, info.version)
            contents[info.key] = hashlib.sha256(data).hexdigest()
            text = _of_dtype(data, dtype)
            out[info.key] = (len(text), "change", lambda text=text: iter((text,)))  # type: ignore[misc]
            continue

        def copied(info: ObjectInfo = info) -> Iterator[bytes]:
            digest = hashlib.sha256()
            for part in _copied(base.store, info):
                digest.update(part)
                yield part
            contents[info.key] = digest.hexdigest()

        out[info.key] = (info.size, "copy", copied)
    card = _card(adapter, base)
    out[_CARD] = (len(card), "change", lambda: iter((card,)))
    if PIPELINE in out:
        last = PIPELINE
    out[last] = out.pop(last)
    return out


_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _of_dtype(data: bytes, dtype: str) -> bytes:
    """A model's configuration that says another type, where it says one."""
    fields = json.loads(data)
    for name in ("dtype", "torch_dtype"):
        if name in fields:
            fields[name] = _TYPES[dtype]
    return (json.dumps(fields, indent=2) + "\n").encode()


def _with(data: bytes, name: str, value: object) -> bytes:
    return (json.dumps({**json.loads(data), name: value}, indent=2) + "\n").encode()


def _copied(store: Store, info: Any) -> Iterator[bytes]:
    for start in range(0, info.size, _PIECE):
        part = ByteRange(start, min(info.size, start + _PIECE))
        yield bytes(store.read_ranges(info.key, [part], info.version)[0])


def _card(adapter: AdapterRecord, base: BaseModel) -> bytes:
    library = "diffusers" if base.is_pipeline or base.file else "transformers"
    named = adapter.base_model or base.uri.rpartition("/")[2]
    front = [f"library_name: {library}"]
    if adapter.base_model.count("/") == 1 and not adapter.base_model.startswith((".", "/")):
        front.append(f"base_model: {json.dumps(adapter.base_model)}")
    text = (
        f"This is {named} with a LoRA adapter merged into its weights by lego-ray bake. "
        f"{MANIFEST} names both, with the hash of each file."
    )
    return "\n".join(("---", *front, "---", "", text, "")).encode()


def _shown(uri: str, output: Store) -> str:
    """A place as an output names it: without local paths if it leaves the machine."""
    is_path = "://" not in uri
    return uri.rpartition("/")[2] if is_path and not output.place.is_local else uri


def _state(store: Store, bake_id: str, marker: str) -> dict[str, Any] | None:
    """The manifest of this bake if it is complete; None if the way is free, or it was begun.

    Raises:
        OutputExists: If something else is there.
    """
    check_folder(store)
    there = listed_output(store)
    # Apart from what a run leaves that was killed as it looked at the store, or wrote a file.
    keys = {key for key in there if not (is_probe(key) or is_temporary(key))}
    if not keys:
        return None
    for key in (MANIFEST, _STARTED):
        if key in keys:
            try:
                found = json.loads(read_at_most(store, key, _LARGEST))
                if found["bake_id"] == bake_id:
                    whole = key == MANIFEST and marker in keys and _is_whole(store, found, there)
                    return dict(found) if whole else None
            except (ValueError, KeyError, TypeError):
                pass
            raise OutputExists(
                store.uri,
                "it holds another bake, whole or unfinished: of another adapter, base model or type",
                "Choose another --output, or delete that one first.",
            )
    raise OutputExists(
        store.uri,
        f"it holds other files, such as {min(keys)}",
        "Choose an empty --output; outputs are never overwritten.",
    )


def _read_manifest(store: Store) -> Mapping[str, Any] | None:
    """The manifest of this bake that a run wrote which was cut short after it; None if there is none."""
    try:
        return dict(json.loads(read_at_most(store, MANIFEST, _LARGEST)))
    except (ObjectNotFound, ValueError, TypeError):
        return None


def _but_for_marks(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a manifest says without what copies of the same base model have otherwise."""
    if manifest is None:
        return None
    base = {k: v for k, v in manifest.get("base", {}).items() if k != MARKS}
    return {**manifest, "base": base}


def _is_whole(store: Store, manifest: Mapping[str, Any], there: Mapping[str, ObjectInfo]) -> bool:
    """Whether all files of a bake are there; those that are missing are written again.

    Raises:
        OutputExists: If one has another size than it must.
    """
    damaged = damaged_files(manifest, there)
    for each in damaged:
        if not each.is_missing:
            again = "Delete it and run the same command again: that writes it again."
            raise OutputExists(f"{store.uri}/{each.key}", f"{each.problem}: it is damaged", again)
    return not damaged


def _start(store: Store, bake_id: str) -> None:
    data = (json.dumps({"bake_version": _VERSION, "bake_id": bake_id}) + "\n").encode()
    try:
        store.create(_STARTED, data)
    except AlreadyExists:
        if store.read(_STARTED) != data:
            raise OutputExists(store.uri, "another bake has begun there") from None


def _end(store: Store) -> None:
    """Takes the mark of an unfinished bake away, if it is there."""
    with contextlib.suppress(ObjectNotFound):
        store.stat(_STARTED)
        store.delete(_STARTED)


def _write(store: Store, key: str, size: int, action: str, parts: Parts) -> dict[str, Any]:
    """Writes a file; one that an earlier run wrote is taken if it has the same bytes."""
    try:
        there = store.stat(key)
    except ObjectNotFound:
        there = None
    if there is None:
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for part in parts():
                digest.update(part)
                yield part

        try:
            store.create_from(key, size, hashed())
            return {"bytes": size, "sha256": digest.hexdigest()}
        except AlreadyExists:
            there = store.stat(key)
    wanted = hash_of(parts)
    if there.size != size or hash_of(lambda: _copied(store, there)) != wanted:
        if key == _CARD and action == "change":  # for people to edit
            return {"bytes": size, "sha256": wanted}
        raise OutputExists(
            store.uri,
            f"{key} already exists, with other bytes",
            "Choose another --output, or delete that file and run the same command again.",
        )
    return {"bytes": size, "sha256": wanted}
