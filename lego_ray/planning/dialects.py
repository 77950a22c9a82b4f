"""One set of names where adapters have two for the modules of one model. Pure.

The tables are in `formats.architectures`. A fused projection becomes its parts: A is shared and B is cut
by rows, which is the same update to the bit. A zoo in one set of names stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Reading, Side, by_base
from lego_ray.formats.fused import part_named
from lego_ray.formats.module_names import STANDARD, ModuleName, flattened, parse_name
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import Block, SiteFactors

_HINT = (
    "If the name of the base model would tell, give it with --base-model. Else merge them separately "
    "(--exclude), or convert them to one naming first."
)

# Parts of a pipeline that the tables are of.
_DENOISERS = ("denoiser", "denoiser 2")
# The second denoiser of one file (Wan 2.2), which has names in diffusers alone.
_SECOND = "denoiser 2"


# Prefixes of diffusers' names that diffusers itself reads in part (Flux's attention) or not at all.
_RARE = ("lora_transformer_", "lycoris_")


@dataclass(frozen=True, slots=True)
class Told:
    """What an adapter shows of an architecture.

    Attributes:
        sides: The sides of names that only one side has.
        prefixes: What its names of the first denoiser begin with, by side; of names that both sides
            have, neither.
    """

    sides: frozenset[Side]
    prefixes: Mapping[Side, str]


def in_one_dialect(
    adapters: Sequence[AdapterRecord], base_model: str = ""
) -> Sequence[AdapterRecord]:
    """The adapters, with one set of names for the modules of a model.

    diffusers' where some modules are several there, or a file has two denoisers; else the one that most
    adapters have, and of equals the one of the model's authors, which more readers know.

    Args:
        adapters: Of image models, in any order.
        base_model: Name of the base model, which decides if the modules could be those of several.

    Returns:
        The adapters in the order given; the same ones where there is nothing to do, or where what is
        there is in no table, which the plan then refuses.

    Raises:
        LayoutMismatch: If the names mean different modules in two architectures.
    """
    names = {factors.site for adapter in adapters for factors in adapter.sites}
    parsed = [name for name in map(parse_name, names) if name.component in _DENOISERS]
    paths = {name.path for name in parsed}
    has_second = any(name.component == _SECOND for name in parsed)
    readings: list[tuple[Architecture, list[AdapterRecord]]] = []
    shown_by = {
        each.name: [told(adapter.sites, each) for adapter in adapters]
        for each in ARCHITECTURES
        if _has_several(each, paths)
    }
    fitting = [a for a in ARCHITECTURES if a.name in shown_by and None not in shown_by[a.name]]
    alike = [a for a in ARCHITECTURES if a.name not in shown_by and _has_all(a, paths)]
    if fitting and any(each in alike for each in by_base([*fitting, *alike], base_model, paths)):
        return adapters  # one side of a model, such as txt_in and to_q of Qwen-Image
    for architecture in by_base(fitting, base_model, paths):
        shown = shown_by[architecture.name]
        side = _side(architecture, [each.sides for each in shown if each], has_second=has_second)
        prefix = _prefix([each for each in shown if each], side, architecture)
        readings.append((architecture, [_as(a, architecture, side, prefix) for a in adapters]))
    if not readings:
        return adapters
    return only_reading(readings, _HINT)


def only_reading(
    readings: Sequence[tuple[Architecture, list[AdapterRecord]]], hint: str
) -> list[AdapterRecord]:
    """What adapters are by the tables that fit them, if these agree.

    Args:
        readings: By each table, at least one, the adapters with the names they get.
        hint: What to do if the tables do not agree.

    Raises:
        LayoutMismatch: If the names mean different modules in two architectures.
    """
    out = readings[0][1]
    for _, different in readings[1:]:
        for number, (one, two) in enumerate(zip(out, different, strict=True)):
            if one.sites != two.sites:
                mine = next(each for each in one.sites if each not in two.sites)
                named: dict[str, list[str]] = {}
                for architecture, adapters in readings:
                    there = [each for each in adapters[number].sites if each.a == mine.a]
                    same = [each for each in there if each.rows == mine.rows] or there
                    called = " and ".join(each.site for each in same)
                    named.setdefault(called, []).append(architecture.name)
                *first, last = (f"{site} of {', '.join(of)}" for site, of in named.items())
                listed = f"{'; '.join(first)}; or {last}"
                problem = f"its modules have several readings: {mine.a.name} is {listed}"
                raise LayoutMismatch(one.uri, problem, hint)
    return out


def as_known(adapter: AdapterRecord, known: Mapping[str, tuple[int, int]]) -> AdapterRecord:
    """An adapter with the names of a merge, where it has others for the same modules.

    A fused module that the merge has in parts is cut into them, and parts of one that the merge has
    whole are put together: their A one after another, B block-diagonal.

    Args:
        adapter: The adapter.
        known: d_in and d_out at each of the merge's sites, by name.
    """
    if all(factors.site in known for factors in adapter.sites):
        return adapter
    best, most = adapter, 0
    names = [parse_name(factors.site) for factors in adapter.sites]
    paths = [name.path for name in names if name.component in _DENOISERS]
    fitting = [a for a in ARCHITECTURES if _has_all(a, paths)]
    models: Sequence[Architecture] = ARCHITECTURES
    if fitting and not by_base(fitting, adapter.base_model, paths):
        models = by_base(ARCHITECTURES, adapter.base_model)
    for architecture in models:
        sites, count = _called(adapter.sites, known, architecture, _merge_of(known, architecture))
        if count > most:
            best, most = replace(adapter, sites=tuple(sites)), count
    return best


# A module of a component by diffusers' name, which a fused one has for each of its parts.
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Merge:
    """The modules of a merge as an architecture has them.

    Attributes:
        own: The site of a module that it has by itself, and whose name that is.
        whole: The site of the fused module that has it as a part, and what that is in the table.
    """

    own: Mapping[_Key, tuple[str, Side]]
    whole: Mapping[_Key, tuple[str, Reading]]


def _merge_of(known: Mapping[str, tuple[int, int]], architecture: Architecture) -> _Merge:
    own: dict[_Key, tuple[str, Side]] = {}
    whole: dict[_Key, tuple[str, Reading]] = {}
    for site, (d_in, _) in sorted(known.items()):
        marked = part_named(site)
        name = parse_name(marked.whole if marked else site)
        reading = architecture.read(name.path) if name.component in _DENOISERS else None
        if reading is None:
            continue
        if marked:
            rows = (marked.start, marked.end)
            for part in range(len(reading.row.diffusers)):
                if reading.row.rows_of(part, d_in, marked.height) == rows:
                    key = (name.component, reading.path("diffusers", part))
                    own.setdefault(key, (site, "diffusers"))
            continue
        if reading.side == "original" and reading.row.is_fused:
            for part in range(len(reading.row.diffusers)):
                key = (name.component, reading.path("diffusers", part))
                whole.setdefault(key, (site, reading))
        else:
            part = reading.part if reading.side == "diffusers" else 0
            key = (name.component, reading.path("diffusers", part))
            own.setdefault(key, (site, reading.side))
    return _Merge(own, whole)


def _called(
    sites: Sequence[SiteFactors],
    known: Mapping[str, tuple[int, int]],
    architecture: Architecture,
    merge: _Merge,
) -> tuple[list[SiteFactors], int]:
    """An adapter's sites as a merge calls them, and how many of them got other names."""
    out: list[SiteFactors] = []
    blocks: dict[str, list[Block]] = {}
    count = 0
    for factors in sites:
        name = parse_name(factors.site)
        reading = architecture.read(name.path) if name.component in _DENOISERS else None
        if (
            factors.site in known
            or reading is None
            or not reading.fits(factors.d_in, factors.d_out)
        ):
            out.append(factors)
            continue
        is_split = reading.side == "original"
        parts = range(len(reading.row.diffusers)) if is_split else (reading.part,)
        keys = [(name.component, reading.path("diffusers", part)) for part in parts]
        wholes = {merge.whole[key][0] for key in keys if key in merge.whole}
        if len(wholes) == 1 and len(parts) > 1:  # another name of the whole
            out.append(moved(factors, reading, wholes.pop(), "original", 0))
            count += 1
        elif any(key in merge.own for key in keys):
            style = next(merge.own[key] for key in keys if key in merge.own)
            for key, part in zip(keys, parts, strict=True):
                site, side = merge.own.get(key) or _beside(style, key[1])
                out.append(moved(factors, reading, site, side, part))
            count += 1
        elif block := _block_of(factors, keys[0], known, merge):
            blocks.setdefault(merge.whole[keys[0]][0], []).append(block)
            count += 1
        else:
            out.append(factors)
    out += [whole_of(site, mine, known[site][1]) for site, mine in blocks.items()]
    return sorted(out, key=lambda each: each.site), count


def _beside(sibling: tuple[str, Side], path: str) -> tuple[str, Side]:
    """What a merge would call a part of a fused module of which it has another part only."""
    name = parse_name(sibling[0].partition("@")[0])
    return f"{name.prefix}{flattened(path) if name.is_flat else path}", sibling[1]


def _block_of(
    factors: SiteFactors, key: _Key, known: Mapping[str, tuple[int, int]], merge: _Merge
) -> Block | None:
    """A module as a part of a fused one of the merge; None if it is not one of that size."""
    if key not in merge.whole or factors.kind != "linear":
        return None
    site, whole = merge.whole[key]
    part = [whole.path("diffusers", at) for at in range(len(whole.row.diffusers))].index(key[1])
    rows = whole.row.rows_of(part, factors.d_in, known[site][1])
    if rows is None or rows[1] - rows[0] != factors.d_out:
        return None
    return Block(factors, rows[0])


def whole_of(site: str, blocks: Iterable[Block], height: int) -> SiteFactors:
    """A fused module of parts that an adapter has by themselves.

    Args:
        site: Its name.
        blocks: The parts that the adapter has, at least one.
        height: Rows of its B.
    """
    ordered = tuple(sorted(blocks, key=lambda block: block.start))
    first = ordered[0].factors
    rank = sum(block.factors.rank for block in ordered)
    return SiteFactors(site, first.kind, rank, 1.0, first.a, first.b, blocks=ordered, height=height)


def told(sites: Iterable[SiteFactors], architecture: Architecture) -> Told | None:
    """What an adapter shows of an architecture; None if a module of its denoiser is in no row.

    Args:
        sites: The adapter's.
        architecture: The table.
    """
    sides: set[Side] = set()
    prefixes: dict[Side, str] = {}
    for factors in sites:
        name = parse_name(factors.site)
        if name.component not in _DENOISERS:
            continue
        reading = architecture.read(name.path)
        if reading is None or not reading.fits(factors.d_in, factors.d_out):
            return None
        if reading.is_telling:
            sides.add(reading.side)
            if name.component != _SECOND and not architecture.is_beside(name.path):
                prefixes.setdefault(reading.side, name.prefix)
    return Told(frozenset(sides), prefixes)


def _side(
    architecture: Architecture, sides: Iterable[frozenset[Side]], *, has_second: bool
) -> Side:
    if architecture.is_split or has_second:
        return "diffusers"
    votes = Counter(side for mine in sides for side in mine)
    return "diffusers" if votes["diffusers"] > votes["original"] else "original"


def _has_all(architecture: Architecture, paths: Iterable[str]) -> bool:
    """Whether a table has every one of some paths, of which there is at least one."""
    found = [architecture.read(path) for path in paths]
    return bool(found) and None not in found


def _has_several(architecture: Architecture, paths: Iterable[str]) -> bool:
    """Whether paths are all of a model, and some of its modules have names of several kinds.

    These are those of both sides, or two of one side, such as XLabs' and kohya's of Flux.1.
    """
    sides: set[Side] = set()
    called: dict[str, str] = {}
    found = False
    for path in paths:
        reading = architecture.read(path)
        if reading is None:
            return False
        if reading.is_telling:
            sides.add(reading.side)
            if reading.side == "original":
                for there in reading.row.diffusers:
                    found |= called.setdefault(there, reading.row.original) != reading.row.original
    return found or len(sides) > 1


def _prefix(told: Iterable[Told], side: Side, architecture: Architecture) -> str:
    """What most of the adapters that have a side's names begin them with.

    diffusers' own where none has them, or where some begin them as few readers know.
    """
    votes = Counter(each.prefixes[side] for each in told if side in each.prefixes)

    def standing(prefix: str) -> int:
        return STANDARD.index(prefix) if prefix in STANDARD else len(STANDARD)

    if not votes or (side == "diffusers" and set(votes) & set(_RARE)):
        return f"{architecture.component}."
    return min(votes, key=lambda prefix: (-votes[prefix], standing(prefix), prefix))


def _as(
    adapter: AdapterRecord, architecture: Architecture, side: Side, prefix: str
) -> AdapterRecord:
    sites = [
        each for factors in adapter.sites for each in _on_side(factors, architecture, side, prefix)
    ]
    seen: dict[tuple[str, str], SiteFactors] = {}
    for each in sites:
        other = seen.setdefault(parse_name(each.site).module, each)
        if other is not each:
            problem = (
                f"it names one module in two ways, {other.a.name} and {each.a.name}, both of which "
                f"are {each.site}"
            )
            raise LayoutMismatch(adapter.uri, problem, "Save it again with one of them.")
    changed = tuple(sorted(sites, key=lambda each: each.site))
    return adapter if changed == adapter.sites else replace(adapter, sites=changed)


def _on_side(
    factors: SiteFactors, architecture: Architecture, side: Side, prefix: str
) -> Iterator[SiteFactors]:
    name = parse_name(factors.site)
    reading = architecture.read(name.path) if name.component in _DENOISERS else None
    is_there = reading is not None and reading.side == side and reading.is_telling
    if reading is None or (is_there and name.prefix not in _RARE):
        yield factors
        return
    prefix = _of_component(name, prefix)
    is_split = side == "diffusers" and reading.side == "original"
    for at in range(len(reading.row.diffusers)) if is_split else (reading.part,):
        path = reading.path(side, at)
        yield moved(factors, reading, architecture.site(prefix, path), side, at)


def _of_component(name: ModuleName, prefix: str) -> str:
    """A prefix for a name's own part of the pipeline; Wan 2.2 has a second denoiser."""
    return name.prefix if name.component == "denoiser 2" else prefix


def moved(factors: SiteFactors, reading: Reading, site: str, side: Side, part: int) -> SiteFactors:
    """A site under another name, of another side or the same; of a fused one, a part.

    Args:
        factors: The site.
        reading: What its name is in the table.
        site: The new name.
        side: Whose name that is.
        part: Which of diffusers' names.
    """
    row = reading.row
    is_other = reading.side != side and reading.is_telling
    rows = factors.rows
    if row.is_fused and reading.side == "original" and side == "diffusers":
        rows = row.rows_of(part, factors.d_in, factors.d_out)
    swapped = factors.is_swapped != (row.is_swapped and is_other)
    return replace(factors, site=site, rows=rows, is_swapped=swapped)
