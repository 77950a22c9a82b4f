"""The names of the layout that a merge is asked to be written in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Reading, Side
from lego_ray.formats.architectures.text import CLIP, T5
from lego_ray.formats.layouts import WRITTEN_AS
from lego_ray.formats.module_names import DENOISER, ModuleName, flattened, parse_name
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.record import AdapterRecord, SiteFactors
from lego_ray.planning.dialects import moved, only_reading, told

_HINT = "Leave out --layout to keep the names that the adapters have."

# What names of text encoders begin with in a layout.
_TEXT: Mapping[str, Mapping[str, str]] = {
    "kohya": {"text 1": "lora_te1_", "text 2": "lora_te2_", "t5": "lora_te3_"},
    "diffusers": {"text 1": "text_encoder.", "text 2": "text_encoder_2."},
    "comfyui": {
        "text 1": "text_encoders.clip_l.transformer.",
        "text 2": "text_encoders.clip_g.transformer.",
        "t5": "text_encoders.t5xxl.transformer.",
    },
}


def in_layout(
    adapters: Sequence[AdapterRecord], written_as: str, layout: str
) -> tuple[AdapterRecord, ...]:
    """The adapters, with the names that a layout has for their modules.

    Args:
        adapters: Each module under one name.
        written_as: The layout of those names.
        layout: The layout asked for: `peft`, `kohya`, `diffusers` or `comfyui`.

    Raises:
        LayoutMismatch: If it has no names for them, or what they are there is not certain.
    """
    if not output_layout(written_as).is_pipeline:
        if layout != written_as:
            problem = f"these adapters are PEFT's, whose modules have no names in {layout}'s layout"
            raise LayoutMismatch(adapters[0].uri, problem, _HINT)
        return tuple(adapters)
    if same_layout(adapters, layout):
        return tuple(adapters)
    found: list[tuple[Architecture, list[AdapterRecord]]] = []
    refused: LayoutMismatch | None = None
    for architecture in ARCHITECTURES:
        if any(told(adapter.sites, architecture) is None for adapter in adapters):
            continue
        try:
            found.append((architecture, [_as(a, architecture, layout) for a in adapters]))
        except LayoutMismatch as error:
            refused = refused or error
    if refused:
        else_ = f"; of {found[0][0].name} it would be another" if found else ""
        raise LayoutMismatch(refused.where, f"{refused.problem}{else_}", refused.hint)
    if not found:
        example = next(
            (f.site for a in adapters for f in a.sites if parse_name(f.site).component == DENOISER),
            adapters[0].sites[0].site,
        )
        problem = (
            f"what modules such as {example} are called in {layout}'s layout is not known: they are "
            "of no model in the tables of this version, or of several"
        )
        raise LayoutMismatch(adapters[0].uri, problem, _HINT)
    return tuple(only_reading(found, _HINT))


def same_layout(adapters: Sequence[AdapterRecord], layout: str) -> bool:
    """Whether adapters are all of a layout, so that nothing is to be renamed.

    Args:
        adapters: The adapters.
        layout: The one asked for, or `sources`.
    """
    return layout == "sources" or {WRITTEN_AS[a.format] for a in adapters} == {layout}


def _as(adapter: AdapterRecord, architecture: Architecture, layout: str) -> AdapterRecord:
    sites = [
        each
        for factors in adapter.sites
        for each in _named(factors, architecture, layout, adapter.uri)
    ]
    return replace(adapter, sites=tuple(sorted(sites, key=lambda each: each.site)))


def _named(
    factors: SiteFactors, architecture: Architecture, layout: str, uri: str
) -> Iterator[SiteFactors]:
    name = parse_name(factors.site)
    if name.component != DENOISER:
        yield replace(factors, site=_text(name, layout, uri))
        return
    reading = architecture.read(name.path)
    if reading is None:
        raise LayoutMismatch(uri, f"{factors.site} is of no row of {architecture.name}", _HINT)
    side: Side = "diffusers" if layout in ("diffusers", "peft") else "original"
    if layout == "kohya":
        side = architecture.kohya
    prefix = {
        "kohya": "lora_unet_",
        "diffusers": f"{architecture.component}.",
        "comfyui": "diffusion_model.",
        "peft": "",
    }[layout]
    is_split = reading.side == "original" and side == "diffusers"
    for part in range(len(reading.row.diffusers)) if is_split else (reading.part,):
        path = reading.path(side, part) if side == "diffusers" else _original(reading, architecture)
        is_part = side == "original" and reading.side == "diffusers" and reading.row.is_fused
        if is_part or not path:
            problem = (
                f"{factors.site} is {'a part of one module' if is_part else 'no whole module'} in "
                f"{layout}'s layout, of {architecture.name}, and parts are not put together"
            )
            hint = "Ask for --layout diffusers, or leave it out to keep the names of the adapters."
            raise LayoutMismatch(uri, problem, hint)
        site = f"{prefix}{flattened(path) if layout == 'kohya' else path}"
        yield moved(factors, reading, site, side, part)


def _original(reading: Reading, architecture: Architecture) -> str:
    """The authors' own name of a module, which XLabs and others have another for; empty if none."""
    row = next(row for row in architecture.rows if row.diffusers == reading.row.diffusers)
    path = replace(reading, row=row).path("original")
    return "" if ".processor." in path else path


def _text(name: ModuleName, layout: str, uri: str) -> str:
    """The name of a text encoder's module in a layout."""
    prefix = _TEXT.get(layout, {}).get(name.component)
    reading = (T5 if name.component == "t5" else CLIP).read(name.path)
    if prefix is None or reading is None:
        problem = f"what {name.site} is called in {layout}'s layout is not known"
        raise LayoutMismatch(uri, problem, _HINT)
    path = reading.path("original")
    return f"{prefix}{flattened(path) if layout == 'kohya' else path}"
