"""The names of the layout that a merge is asked to be written in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Reading, Side, by_base
from lego_ray.formats.architectures.row import Row
from lego_ray.formats.fused import Part, part_named
from lego_ray.formats.layouts import WRITTEN_AS
from lego_ray.formats.module_names import DENOISER, parse_name
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.planning.asked_text import text_names
from lego_ray.planning.dialects import moved, only_reading, told

_HINT = "Leave out --layout to keep the names that the adapters have."
_WHICH = f"Say which model it is by the name of the base model (--base-model). {_HINT}"


def in_layout(
    adapters: Sequence[AdapterRecord],
    written_as: str,
    layout: str,
    base_model: str = "",
    *,
    is_respelled: bool = False,
) -> tuple[AdapterRecord, ...]:
    """The adapters, with the names that a layout has for their modules.

    Parts of a module that the layout has fused stay parts, named after the whole (see `formats.fused`):
    they are put together when the merge is written. A module that all adapters have whole stays whole.

    Args:
        adapters: Each module under one name.
        written_as: The layout of those names.
        layout: The layout asked for: `peft`, `kohya`, `diffusers` or `comfyui`.
        base_model: Name of the base model, which decides if the modules could be those of several.
        is_respelled: Whether these are not the names that the adapters have themselves.

    Raises:
        LayoutMismatch: If it has no names for them, or what they are there is not certain.
    """
    if not output_layout(written_as).is_pipeline:
        if layout != written_as:
            problem = f"these adapters are PEFT's, whose modules have no names in {layout}'s layout"
            raise LayoutMismatch(adapters[0].uri, problem, _HINT)
        return tuple(adapters)
    if same_layout(adapters, layout) and not is_respelled:
        if not any(_is_other(factors.site, layout) for a in adapters for factors in a.sites):
            return tuple(adapters)
        try:
            return _by_tables(adapters, layout, base_model)
        except (
            LayoutMismatch
        ):  # of no model in the tables: prefixes of one meaning are all that is known
            return tuple(_with_prefix(adapter, layout) for adapter in adapters)
    return _by_tables(adapters, layout, base_model)


# What names of the denoiser begin with in a layout, and what else means the same there.
_PREFIX: Mapping[str, str] = {"kohya": "lora_unet_", "comfyui": "diffusion_model."}
_SAME: Mapping[str, tuple[str, ...]] = {
    "kohya": ("lora_unet__",),
    "comfyui": ("", "pipe.dit.", "model.diffusion_model.", "net."),
}


def _is_other(site: str, layout: str) -> bool:
    """Whether a name of the denoiser begins in another way than the layout's own do."""
    name = parse_name(site)
    return name.component == DENOISER and name.prefix != _PREFIX.get(layout, name.prefix)


def _with_prefix(adapter: AdapterRecord, layout: str) -> AdapterRecord:
    """An adapter with the prefix of a layout where the one that it has means the same."""
    sites = []
    for factors in adapter.sites:
        name = parse_name(factors.site)
        if name.component == DENOISER and name.prefix in _SAME.get(layout, ()):
            factors = replace(factors, site=f"{_PREFIX[layout]}{name.path}")
        sites.append(factors)
    return _unnamed(replace(adapter, sites=tuple(sorted(sites, key=lambda each: each.site))))


def _unnamed(adapter: AdapterRecord) -> AdapterRecord:
    """An adapter without the name that its keys have for it, which few readers take."""
    if not adapter.config.get("adapter"):
        return adapter
    return replace(adapter, config={**adapter.config, "adapter": ""})


def _by_tables(
    adapters: Sequence[AdapterRecord], layout: str, base_model: str
) -> tuple[AdapterRecord, ...]:
    """The adapters, with the names that the tables of models have in a layout."""
    found: list[tuple[Architecture, list[AdapterRecord]]] = []
    refused: LayoutMismatch | None = None
    fitting = [
        architecture
        for architecture in ARCHITECTURES
        if all(told(adapter.sites, architecture) is not None for adapter in adapters)
    ]
    texts = text_names(adapters, layout, base_model) if fitting else {}
    names = [parse_name(factors.site) for adapter in adapters for factors in adapter.sites]
    paths = {name.path for name in names if name.component == DENOISER}
    models = by_base(fitting, base_model, paths)
    for architecture in [each for each in models if each.is_exact] or models:
        try:
            heights = _heights(adapters, architecture)
            named = [_as(a, architecture, layout, heights, texts) for a in adapters]
            found.append((architecture, _left_whole(named)))
        except LayoutMismatch as error:
            refused = refused or error
    if refused:
        else_ = f"; of {found[0][0].name} it would be another" if found else ""
        raise LayoutMismatch(refused.where, f"{refused.problem}{else_}", refused.hint)
    if not found:
        raise LayoutMismatch(adapters[0].uri, _unknown(adapters, layout), _HINT)
    return tuple(map(_unnamed, only_reading(found, _WHICH)))


def _unknown(adapters: Sequence[AdapterRecord], layout: str) -> str:
    """Why the tables have no names for adapters: the module that the nearest model lacks."""
    sites = {
        name.path: factors.site
        for adapter in adapters
        for factors in adapter.sites
        if (name := parse_name(factors.site)).component == DENOISER
    }
    unread = [
        (architecture, [sites[path] for path in sites if architecture.read(path) is None])
        for architecture in ARCHITECTURES
    ]
    nearest, lacks = min(unread, key=lambda each: len(each[1]))
    n_read = len(sites) - len(lacks)
    if lacks and n_read:
        return (
            f"what {min(lacks)} is called in {layout}'s layout is not known: the table of "
            f"{nearest.name} has {n_read} of these {len(sites)} modules, and not this one"
        )
    example = next(iter(sites.values()), adapters[0].sites[0].site)
    return (
        f"what modules such as {example} are called in {layout}'s layout is not known: they are "
        "of no model in the tables of this version, or of several"
    )


def same_layout(adapters: Sequence[AdapterRecord], layout: str) -> bool:
    """Whether adapters are all of a layout, so that nothing is to be renamed.

    Args:
        adapters: The adapters.
        layout: The one asked for, or `sources`.
    """
    return layout == "sources" or {WRITTEN_AS[a.format] for a in adapters} == {layout}


# Rows of B of fused modules, by the authors' path; None where the adapters do not show it.
_Heights = Mapping[str, int | None]


def _as(
    adapter: AdapterRecord,
    architecture: Architecture,
    layout: str,
    heights: _Heights,
    texts: Mapping[str, str],
) -> AdapterRecord:
    sites = [
        each
        for factors in adapter.sites
        for each in (
            [replace(factors, site=texts[factors.site])]
            if factors.site in texts
            else _named(factors, architecture, layout, adapter.uri, heights)
        )
    ]
    return replace(adapter, sites=tuple(sorted(sites, key=lambda each: each.site)))


def _named(
    factors: SiteFactors, architecture: Architecture, layout: str, uri: str, heights: _Heights
) -> Iterator[SiteFactors]:
    name = parse_name(factors.site)
    reading = architecture.read(name.path) if name.component == DENOISER else None
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

    def site(path: str) -> str:
        if layout == "peft" and architecture.is_beside(path):
            problem = (
                f"{factors.site} is of no transformer, which is all that {layout}'s layout has"
            )
            raise LayoutMismatch(uri, problem, _HINT)
        return architecture.site(prefix, path)

    whole = _original(reading, architecture) if side == "original" else ""
    if whole and not (reading.side == "diffusers" and reading.row.is_fused):
        yield moved(factors, reading, site(whole), side, reading.part)
        return
    is_split = reading.side == "original"
    for part in range(len(reading.row.diffusers)) if is_split else (reading.part,):
        mine = moved(factors, reading, "", "diffusers", part)
        if side == "diffusers":
            yield replace(mine, site=site(reading.path(side, part)))
            continue
        marked = _part(reading, part, mine, architecture, heights)
        if marked is None:
            problem = (
                f"{factors.site} is a part of one module in {layout}'s layout, of "
                f"{architecture.name}, and what rows of it these are is not known"
            )
            hint = "Ask for --layout diffusers, or leave it out to keep the names of the adapters."
            raise LayoutMismatch(uri, problem, hint)
        yield replace(mine, site=replace(marked, whole=site(marked.whole)).site)


def _original(reading: Reading, architecture: Architecture) -> str:
    """The authors' own name of a module, which XLabs and others have another for; empty if none."""
    rows = (row for row in architecture.rows if row.diffusers == reading.row.diffusers)
    return next((replace(reading, row=row).path("original") for row in rows if _is_own(row)), "")


def _is_own(row: Row) -> bool:
    """Whether a row has the authors' name of a module, not XLabs'."""
    return ".processor." not in row.original


def _whole(reading: Reading, part: int, architecture: Architecture) -> Reading | None:
    """The fused module of the authors' that a part is of; the reading's part is its number there."""
    template = reading.row.diffusers[part]
    row = next(
        (r for r in architecture.rows if r.is_fused and _is_own(r) and template in r.diffusers),
        None,
    )
    if row is None:
        return None
    return replace(reading, row=row, side="diffusers", part=row.diffusers.index(template))


def _part(
    reading: Reading,
    part: int,
    factors: SiteFactors,
    architecture: Architecture,
    heights: _Heights,
) -> Part | None:
    """Which rows of a fused module a part is; None if that is not certain."""
    whole = _whole(reading, part, architecture)
    height = heights.get(whole.path("original")) if whole else None
    if whole is None or height is None:
        return None
    rows = whole.row.rows_of(whole.part, factors.d_in, height)
    if rows is None or rows[1] - rows[0] != factors.d_out:
        return None
    return Part(whole.path("original"), *rows, height)


def _heights(adapters: Sequence[AdapterRecord], architecture: Architecture) -> _Heights:
    """Rows of B of each fused module that adapters have a part of."""
    found: dict[str, tuple[Row, int, dict[int, int]]] = {}
    for adapter in adapters:
        for factors in adapter.sites:
            name = parse_name(factors.site)
            reading = architecture.read(name.path) if name.component == DENOISER else None
            if reading is None or not reading.row.is_fused:
                continue
            is_split = reading.side == "original"
            for part in range(len(reading.row.diffusers)) if is_split else (reading.part,):
                if whole := _whole(reading, part, architecture):
                    mine = moved(factors, reading, "", "diffusers", part)
                    path = whole.path("original")
                    _, _, sizes = found.setdefault(path, (whole.row, mine.d_in, {}))
                    sizes[whole.part] = mine.d_out
    return {path: row.height_of(d_in, sizes) for path, (row, d_in, sizes) in found.items()}


def _left_whole(adapters: list[AdapterRecord]) -> list[AdapterRecord]:
    """The adapters, modules that all of them have whole not in parts."""
    whole: dict[str, bool] = {}
    for adapter in adapters:
        for name, parts in _parts_in(adapter).items():
            whole[name] = whole.get(name, True) and _is_whole(parts)
    if not any(whole.values()):
        return adapters
    out = []
    for adapter in adapters:
        parts_in = {n: parts for n, parts in _parts_in(adapter).items() if whole[n]}
        gone = {factors.site for parts in parts_in.values() for _, factors in parts}
        sites = [factors for factors in adapter.sites if factors.site not in gone]
        sites += [replace(parts[0][1], site=n, rows=None) for n, parts in parts_in.items()]
        out.append(replace(adapter, sites=tuple(sorted(sites, key=lambda each: each.site))))
    return out


def _parts_in(adapter: AdapterRecord) -> dict[str, list[tuple[Part, SiteFactors]]]:
    found: dict[str, list[tuple[Part, SiteFactors]]] = {}
    for factors in adapter.sites:
        if part := part_named(factors.site):
            found.setdefault(part.whole, []).append((part, factors))
    return {name: sorted(mine, key=lambda each: each[0].start) for name, mine in found.items()}


def _is_whole(parts: Sequence[tuple[Part, SiteFactors]]) -> bool:
    """Whether parts are all rows of one pair of factors."""
    [first, *_] = parts
    whole, at = replace(first[1], site="", rows=None), 0
    for part, factors in parts:
        if factors.rows != (part.start, part.end) or part.start != at:
            return False
        if replace(factors, site="", rows=None) != whole:
            return False
        at = part.end
    return at == first[0].height == whole.d_out
