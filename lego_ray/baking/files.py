"""The files of a baked model: what each is made of, and in which order they are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lego_ray.baking.base_content import copied, through
from lego_ray.baking.changes import Change
from lego_ray.baking.shards import shard_bytes, written_header, written_size
from lego_ray.baking.state import MANIFEST
from lego_ray.baking.update import Factors
from lego_ray.formats.base_weights import CONFIG, PIPELINE
from lego_ray.formats.record import AdapterRecord
from lego_ray.sources.base_model import BaseModel
from lego_ray.storage.base import ObjectInfo

CARD = "README.md"

Parts = Callable[[], Iterator[bytes]]


def files_of(
    adapter: AdapterRecord,
    base: BaseModel,
    changes: Mapping[tuple[str, str], Change],
    dtype: str,
    contents: dict[str, str],
) -> dict[str, tuple[int, str, Parts]]:
    """Size, action and bytes of each file of the output, the one that makes it a model last.

    Args:
        adapter: The adapter.
        base: Its base model.
        changes: What is changed, by file and tensor.
        dtype: Element type to write, or `base` for that of each tensor.
        contents: Takes the full hash of a base model's file when its bytes have been made.
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
        if info.key in (CARD, MANIFEST):
            continue
        if info.key.rpartition("/")[2] == CONFIG and dtype != "base":
            data = base.store.read(info.key, info.version)
            contents[info.key] = hashlib.sha256(data).hexdigest()
            text = _of_dtype(data, dtype)
            out[info.key] = (len(text), "change", lambda text=text: iter((text,)))  # type: ignore[misc]
            continue

        def as_it_is(info: ObjectInfo = info) -> Iterator[bytes]:
            digest = hashlib.sha256()
            yield from through(digest, copied(base.store, info))
            contents[info.key] = digest.hexdigest()

        out[info.key] = (info.size, "copy", as_it_is)
    card = _card(adapter, base)
    out[CARD] = (len(card), "change", lambda: iter((card,)))
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
