"""Each reader of others' files and words as a function of bytes.

A target returns, or raises an error of lego-ray's family; anything else is a finding. Nothing here
touches disk or network.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from lego_ray.errors import LegoRayError
from lego_ray.formats.identity import adapter_id
from lego_ray.formats.model_card import parse_card
from lego_ray.formats.reading import is_adapter, read_adapter
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.torch_bin import read_spans
from lego_ray.output.card.model_card import model_card
from lego_ray.output.checkpoints.run_folder import (
    MARKER,
    TEXT,
    UnreadableCheckpoint,
    parse_text,
    read_marker,
)
from lego_ray.output.manifest import listed_files, parse_manifest
from lego_ray.output.running_sums import decode_state
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe, recipe_from
from lego_ray.planning.recipe_file import parse_recipe_file
from lego_ray.reporting.facts import Facts, short_names
from lego_ray.reporting.write import page
from lego_ray.storage.base import ObjectInfo
from lego_ray.storage.keys import check_key
from lego_ray.storage.uri import join, normalize_uri

RANK = 2
WIDTHS = (3, 5)
CONFIG = b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}'
MLX = b'{"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 2.0}}'


class _Marked:
    """A store that holds one file."""

    def __init__(self, data: bytes) -> None:
        self.uri = "/output"
        self._data = data

    def stat(self, key: str) -> ObjectInfo:
        """Describes it."""
        return ObjectInfo(key, len(self._data), "1")

    def read(self, key: str) -> bytes:
        """Reads it."""
        return self._data


def header(data: bytes) -> None:
    """A safetensors file."""
    length = header_length(data[:LENGTH_BYTES], len(data), "file")
    spans, metadata = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data), "file")
    _read(spans, None, metadata)
    _read(spans, CONFIG, metadata)


def torch_bin(data: bytes) -> None:
    """A file of torch.save."""
    _read(read_spans(io.BytesIO(data), "file"), CONFIG, {})


def config(data: bytes) -> None:
    """An adapter_config.json, beside weights of one site."""
    for name in ("model.layers.0.q_proj", "model.layers.0.self_attn.q_proj" + ".deep" * 40):
        _read(_pair(f"base_model.model.{name}.lora_{{}}.weight", "AB"), data, {})
    _read(_pair("model.layers.0.q_proj.lora_{}", "ab", transposed=True), data, {})


def names(data: bytes) -> None:
    """Tensors' names, one a line, as those of files in any layout; odd lines are A, even ones B."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    lines = [line.encode("utf-8", "replace").decode() for line in lines]
    spans, start = [], 0
    for number, name in enumerate(dict.fromkeys(lines)):
        shape = (RANK, WIDTHS[0]) if number % 2 == 0 else (WIDTHS[1], RANK)
        spans.append(TensorSpan(name, "F32", shape, start, start + 4 * shape[0] * shape[1]))
        start = spans[-1].end
    for configured in (None, CONFIG, MLX):
        _read(tuple(spans), configured, {})
    with contextlib.suppress(LegoRayError):
        is_adapter([span.name for span in spans], "file")


def metadata(data: bytes) -> None:
    """What a diffusers file says of its adapters beside the tensors, and a kohya file of its model."""
    text = data.decode("utf-8", "replace")
    said = {"lora_adapter_metadata": text, "ss_base_model_version": text, "ss_sd_model_name": text}
    _read(_pair("unet.down.0.to_q.lora_{}.weight", "AB"), None, said)
    _read(_pair("lora_unet_down.lora_{}.weight", ("down", "up")), None, said)


def recipe(data: bytes) -> None:
    """A recipe file."""
    parse_recipe_file(data.decode("utf-8", "replace"), "library.yaml")


def where(data: bytes) -> None:
    """A condition of a recipe file over the adapters of a catalog."""
    from lego_ray.catalog.choosing import choose

    table = _adapters()
    chosen = choose(table, data.decode("utf-8", "surrogateescape"))
    assert chosen == sorted(set(chosen))
    assert all(0 <= position < table.num_rows for position in chosen)


def uri(data: bytes) -> None:
    """A URI, a path, a key below one, a catalog's place."""
    from lego_ray.catalog.opening import open_catalog

    text = data.decode("utf-8", "surrogateescape")
    first, _, key = text.partition("\n")
    place = normalize_uri(first)
    assert normalize_uri(place) == place
    check_key(place, key)
    assert join(place, key).startswith(place)
    if place.startswith("/"):
        open_catalog(place).table_uri("merges")


def manifest(data: bytes) -> None:
    """The manifest of a merge, as a page, a publish, an update and a verify read it."""
    found = parse_manifest(data, "/merged")
    places = [source["uri"] for source in found["sources"]]
    page(Facts("/merged", found, short_names(places), (), None, None))
    _each(lambda: listed_files(found, "/merged"), lambda: recipe_from(found["recipe"], "/merged"))


def marker(data: bytes) -> None:
    """What says whose an unfinished output is, and a finished task of it."""
    store: Any = _Marked(data)
    _each(
        lambda: read_marker(store),
        lambda: parse_text({TEXT: data.decode("utf-8", "replace"), MARKER: ""}),
    )


def running_sums(data: bytes) -> None:
    """What an updatable merge keeps for its next version."""
    decode_state(data, "/merged")


def card(data: bytes) -> None:
    """An adapter's README.md."""
    found = parse_card(data)
    record = _record(_pair("base_model.model.q_proj.lora_{}.weight", "AB"), CONFIG, {}, found.tags)
    plan = make_plan(Recipe(name="m", rank=1), Inventory.of([record], []), memory_budget=1 << 30)
    model_card(plan, [], {})


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        *(header, torch_bin, config, names, metadata, recipe, where, uri),
        *(manifest, marker, running_sums, card),
    )
}


def run(target: str, data: bytes) -> LegoRayError | UnreadableCheckpoint | None:
    """Points a target at some bytes.

    Returns:
        The error it gave, of those it may, or None.
    """
    try:
        TARGETS[target](data)
    except (LegoRayError, UnreadableCheckpoint) as error:
        return error
    return None


def _each(*calls: Callable[[], object]) -> None:
    """Makes every call; an error that one may give keeps none from being made."""
    for call in calls:
        try:
            call()
        except (LegoRayError, UnreadableCheckpoint):
            continue


def _pair(
    pattern: str, halves: Sequence[str], *, transposed: bool = False
) -> tuple[TensorSpan, ...]:
    shapes = ((RANK, WIDTHS[0]), (WIDTHS[1], RANK))
    spans, start = [], 0
    for half, shape in zip(halves, shapes, strict=True):
        stored = shape[::-1] if transposed else shape
        end = start + 4 * shape[0] * shape[1]
        spans.append(TensorSpan(pattern.format(half), "F32", stored, start, end))
        start = end
    return tuple(spans)


def _record(
    spans: tuple[TensorSpan, ...],
    configured: bytes | None,
    said: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
) -> AdapterRecord:
    size = max((span.end for span in spans), default=0)
    headers = AdapterHeaders(
        uri="/zoo/a",
        weights_key="file",
        weights="/zoo/a/file",
        spans=spans,
        metadata=said,
        config=configured,
        n_bytes=size,
        version="1",
        revision="",
        adapter_id=adapter_id(configured or b"", spans, size, b"", b""),
        tags=tags or {},
    )
    return read_adapter(headers, "drop")


def _read(spans: tuple[TensorSpan, ...], configured: bytes | None, said: Mapping[str, str]) -> None:
    """Reads an adapter, and plans a merge of it."""

    def planned() -> None:
        record = _record(spans, configured, said)
        inventory = Inventory.of([record], [])
        plan = make_plan(Recipe(name="m", rank=1), inventory, memory_budget=1 << 30)
        model_card(plan, [], {})

    _each(planned)


@cache
def _adapters() -> Any:
    from lego_ray.catalog.rows import conform

    common = {"status": "ok", "scanned_at": datetime(2026, 1, 1, tzinfo=UTC)}
    rows = [
        {
            **common,
            "uri": f"/zoo/a{number}",
            "adapter_id": str(number),
            "rank_min": number,
            "rank_max": number,
            "tags": {"task": "qa", "Language": "fr", "": "x", '"': "y"} if number % 2 else {},
        }
        for number in range(1, 5)
    ]
    return conform("adapters", rows)
