"""Whether adapters name the modules of one model: the same tree of modules, in the same words. Pure.

Two namings of one model have few names in common or none, so a merge of both would write each module
twice or leave every adapter alone with its own. What is another spelling of the same name has been
brought to one before (`planning.naming`); here are those that differ by more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures import ARCHITECTURES
from lego_ray.formats.architectures.known import stray_of
from lego_ray.formats.architectures.row import Row, Side
from lego_ray.formats.architectures.rows import Architecture
from lego_ray.formats.module_names import DENOISER, ModuleName, parse_name
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.planning.wrapped import still_in_doubt

_HINT = "Merge them separately, with --exclude for the others, or convert them to one naming."

Shape = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Names:
    """The modules of an adapter, or of several that have the same.

    Attributes:
        uri: The adapter, for errors; the first of several.
        sites: Kind, d_in and d_out by site.
        count: How many have them.
        keys: The name of a tensor of each in the file, by site; empty if there is no file.
    """

    uri: str
    sites: Mapping[str, Shape]
    count: int = 1
    keys: Mapping[str, str] = field(default_factory=dict)

    def called(self, site: str) -> str:
        """A site by a name that its file has: the site's own where it is a part of the tensor's."""
        key = self.keys.get(site, site)
        return site if site in key else key


@dataclass(frozen=True, slots=True)
class _Example:
    """A name, and the adapter that has it."""

    uri: str
    site: str


# The blocks of one denoiser in two trees: those of the model's authors, and diffusers'.
_BLOCKS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks")),
    (("double_blocks", "single_blocks"), ("transformer_blocks", "single_transformer_blocks")),
    (("joint_blocks",), ("transformer_blocks",)),
    (("blocks",), ("transformer_blocks",)),
)
# What an attention or an MLP calls its projections. The first that matches the end of a name counts.
_STYLES: Mapping[str, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "attention": (
        ("fused", re.compile(r"(?:_to)?_(?:W?qkv|query_key_value|c_attn|qkv_proj)$")),
        ("to_q", re.compile(r"_to_(?:q|k|v)$")),
        ("q_proj", re.compile(r"(?<!_add)_(?:q|k|v)_proj$")),
        ("query", re.compile(r"_(?:query|key|value)$")),
        ("q", re.compile(r"(?<=attn|tion)_(?:q|k|v)$")),
    ),
    "MLP": (
        ("fused", re.compile(r"_gate_up_proj$")),
        ("gate_proj", re.compile(r"_(?:gate|up)_proj$")),
        ("net", re.compile(r"_net_#(?:_proj)?$")),
        ("number", re.compile(r"(?<=mlp|ffn|_ff)_#$")),
        ("fc", re.compile(r"_fc[12]$")),
        ("w", re.compile(r"_w[123]$")),
        ("linear", re.compile(r"_linear_(?:in|out)$")),
    ),
}
# Names of the parts of models that stand beside each other, each with layers of its own.
_TOWERS = re.compile(
    r"vis(?:ion|ual)|image|video|audio|speech|depth|encoder|decoder|talker|thinker|expert|mtp|draft"
    r"|refiner|llm_adapter"
)


def names_in(adapters: Iterable[AdapterRecord]) -> list[Names]:
    """The modules of adapters, of those that have the same ones once."""
    found: dict[tuple[str, ...], tuple[AdapterRecord, int]] = {}
    for alike in sharing_sites(adapters):
        key = tuple(factors.site for factors in alike[0].sites)
        first, count = found.get(key, (alike[0], 0))
        found[key] = (min(first, *alike, key=lambda a: a.uri), count + len(alike))
    return [
        Names(
            a.uri,
            {f.site: (f.kind, f.d_in, f.d_out) for f in a.sites},
            count,
            {f.site: f.a.name for f in a.sites},
        )
        for a, count in found.values()
    ]


def check_one_tree(adapters: Sequence[Names], layout: str) -> None:
    """Passes adapters that name the modules of one model alike.

    Args:
        adapters: Their modules, each under the name it has in the merge.
        layout: What the merge is written in.

    Raises:
        LayoutMismatch: Naming both namings and an adapter of each.
    """
    _check_leads(adapters)
    is_pipeline = output_layout(layout).is_pipeline
    _check_patterns(adapters, is_pipeline=is_pipeline)
    if is_pipeline and len(adapters) > 1:
        paths = [_denoiser_paths(adapter) for adapter in adapters]
        for model in ARCHITECTURES:
            _check_rows(adapters, paths, model)


def warnings_of_trees(adapters: Sequence[Names]) -> Iterator[str]:
    """What to tell of adapters that have no module in common with others, or names left in doubt."""
    sets = _connected(adapters)
    if len(sets) > 1:
        listed = "; ".join(
            f"{sum(each.count for each in mine)} with {mine[0].uri} (such as {min(mine[0].sites)})"
            for mine in sets[:3]
        )
        more = f"; and {len(sets) - 3} more" if len(sets) > 3 else ""
        yield (
            f"the adapters fall into {len(sets)} sets with no module in common, so that none is "
            f"merged with one of another set: {listed}{more}"
        )
    if site := still_in_doubt(site for each in adapters for site in each.sites):
        yield (
            f"names such as {site} have the part `module`, which training wrappers add (DDP), and "
            "it is kept, as no adapter has them without it"
        )


def _connected(adapters: Sequence[Names]) -> list[list[Names]]:
    """The adapters in sets with no module in common, larger ones first."""
    above = list(range(len(adapters)))

    def top(at: int) -> int:
        while above[at] != at:
            above[at] = above[above[at]]
            at = above[at]
        return at

    first: dict[str, int] = {}
    for number, adapter in enumerate(adapters):
        for site in adapter.sites:
            other = top(first.setdefault(site, number))
            own = top(number)
            above[max(own, other)] = min(own, other)
    sets: dict[int, list[Names]] = defaultdict(list)
    for number, adapter in enumerate(adapters):
        sets[top(number)].append(adapter)
    ordered = [sorted(mine, key=lambda each: each.uri) for mine in sets.values()]
    return sorted(ordered, key=lambda m: (-sum(each.count for each in m), m[0].uri))


def _check_leads(adapters: Sequence[Names]) -> None:
    """Names that differ by their first parts only: `model.layers.0.q`, `language_model.layers.0.q`."""
    found: dict[tuple[str, Shape], dict[tuple[str, ...], _Example]] = defaultdict(dict)
    together: set[frozenset[tuple[str, ...]]] = set()
    done: set[tuple[str, Shape]] = set()
    for adapter in adapters:
        mine: dict[tuple[str, Shape], set[tuple[str, ...]]] = defaultdict(set)
        for site, shape in adapter.sites.items():
            lead, tail = _split(site)
            if tail:
                mine[tail, shape].add(lead)
                if (site, shape) not in done:
                    done.add((site, shape))
                    found[tail, shape].setdefault(lead, _Example(adapter.uri, adapter.called(site)))
        leads = set().union(*mine.values())
        together |= {frozenset(two) for two in combinations(sorted(leads), 2)}
    for (tail, _), mine_ in sorted(found.items()):
        for first, second in combinations(sorted(mine_), 2):
            if frozenset((first, second)) not in together and _are_one(first, second):
                one, two = mine_[first], mine_[second]
                problem = (
                    f"the adapters name modules alike except for what comes first ({tail}): "
                    f"{one.site} in {one.uri}; {two.site} in {two.uri}"
                )
                raise LayoutMismatch(two.uri, problem, _HINT)


def _split(site: str) -> tuple[tuple[str, ...], str]:
    """What stands before the first block of a dotted path, and the rest, its numbers left out."""
    parts = site.split(".")
    at = next((n for n, part in enumerate(parts) if part.isdecimal()), 0)
    if at == 0:
        return (), ""
    tail = ("#" if part.isdecimal() else part for part in parts[at - 1 :])
    return tuple(parts[: at - 1]), ".".join(tail)


def _are_one(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two beginnings may be of one place: one within the other, or of the same parts."""
    if sorted(first) == sorted(second):
        return True
    short, long = sorted((first, second), key=len)
    rest = iter(long)
    if not all(part in rest for part in short):
        return False
    extra = list(long)
    for part in short:
        extra.remove(part)
    return not any(_TOWERS.search(part) for part in extra)


@dataclass(frozen=True, slots=True, order=True)
class _Pattern:
    """A name with its numbers left out.

    Attributes:
        component: Part of the pipeline.
        container: What its blocks are called, up to the first number.
        text: The whole, its dots as underscores, after an underscore.
    """

    component: str
    container: str
    text: str


def _pattern(site: str, is_pipeline: bool) -> _Pattern:
    component, path = parse_name(site).module if is_pipeline else ("", site.replace(".", "_"))
    text = re.sub(r"(?<=_)\d+(?=_|$)", "#", f"_{path}")
    container, number, _ = text.partition("_#")
    return _Pattern(component, container[1:] if number else "", text)


def _check_patterns(adapters: Sequence[Names], is_pipeline: bool) -> None:
    cache: dict[str, _Pattern] = {}
    kinds: dict[frozenset[_Pattern], Names] = {}
    for adapter in adapters:
        for site in adapter.sites:
            if site not in cache:
                cache[site] = _pattern(site, is_pipeline)
        kinds.setdefault(frozenset(cache[site] for site in adapter.sites), adapter)
    if is_pipeline:
        _check_blocks(kinds)
    for part, styles in _STYLES.items():
        _check_styles(kinds, part, styles, everywhere=is_pipeline and part == "attention")


def _check_blocks(kinds: Mapping[frozenset[_Pattern], Names]) -> None:
    for pair in _BLOCKS:
        found: tuple[dict[str, _Example], dict[str, _Example]] = ({}, {})
        both: set[str] = set()
        for patterns, adapter in kinds.items():
            mine: tuple[set[str], set[str]] = (set(), set())
            for pattern in sorted(patterns):
                for side, names in enumerate(pair):
                    if any(_begins(pattern.container, name) for name in names):
                        mine[side].add(pattern.component)
                        example = _Example(adapter.uri, adapter.called(_site_of(adapter, pattern)))
                        found[side].setdefault(pattern.component, example)
            both |= mine[0] & mine[1]
        for component in sorted((found[0].keys() & found[1].keys()) - both):
            stray = _stray_of(list(kinds.values()))
            raise _two_ways(
                "the blocks of one model", found[0][component], found[1][component], stray
            )


def _denoiser_paths(adapter: Names) -> dict[str, ModuleName]:
    """The names of the denoiser's modules, taken apart, by site."""
    names = ((site, parse_name(site)) for site in adapter.sites)
    return {site: name for site, name in names if name.component.startswith(DENOISER)}


# A module of a model, whatever it is called: component, row of its table, numbers of the blocks.
_Place = tuple[str, Row, tuple[str, ...]]


def _check_rows(
    adapters: Sequence[Names],
    paths: Sequence[Mapping[str, ModuleName]],
    model: Architecture,
) -> None:
    """Refuses two names that a model's table has for one module, whatever stands around them.

    Where one adapter has both, they are two modules, and the model is another one. An adapter is passed
    over if the table lacks most of its modules, since it may be of another model too.

    Args:
        adapters: The adapters.
        paths: Of each, what `_denoiser_paths` gives.
        model: The model.
    """
    found: dict[_Place, dict[Side, tuple[_Example, Shape]]] = {}
    both: set[_Place] = set()
    for adapter, names in zip(adapters, paths, strict=True):
        mine: dict[_Place, dict[Side, str]] = defaultdict(dict)
        read = {s: reading for s, n in names.items() if (reading := model.read(n.path))}
        if 2 * len(read) < len(names):
            continue
        for site, reading in sorted(read.items()):
            if reading.is_telling:
                place = (names[site].component, reading.row, reading.numbers)
                mine[place].setdefault(reading.side, site)
        for place, sides in mine.items():
            if len(sides) == 2:
                both.add(place)
            for side, site in sides.items():
                example = _Example(adapter.uri, adapter.called(site))
                found.setdefault(place, {}).setdefault(side, (example, adapter.sites[site]))
    for place, sides_ in found.items():
        if len(sides_) == 2 and place not in both:
            (one, shape), (two, other) = (sides_["original"], sides_["diffusers"])
            if place[1].is_fused or shape == other:
                raise _two_ways(f"one module of {model.name}", one, two, _stray_of(adapters))


def _stray_of(adapters: Sequence[Names]) -> _Example | None:
    """A module whose other name is not known, where the names of all others are."""
    stray = stray_of(site for adapter in adapters for site in adapter.sites)
    having = next((each for each in adapters if stray in each.sites), None)
    return _Example(having.uri, having.called(stray)) if having and stray else None


def _begins(container: str, name: str) -> bool:
    return container == name or container.startswith(f"{name}_")


def _check_styles(
    kinds: Mapping[frozenset[_Pattern], Names],
    part: str,
    styles: Sequence[tuple[str, re.Pattern[str]]],
    everywhere: bool,
) -> None:
    """Refuses projections of one block in two styles, such as fused and split, that no adapter mixes.

    Args:
        kinds: An adapter for each set of patterns.
        part: What they are projections of.
        styles: The styles.
        everywhere: Whether two styles are two namings also in parts of a block with other names.
    """
    stems: dict[tuple[str, str], dict[str, dict[str, _Example]]] = {}
    both: set[tuple[str, str, str, str]] = set()
    for patterns, adapter in kinds.items():
        mine: dict[tuple[str, str], set[str]] = defaultdict(set)
        for pattern in sorted(patterns):
            for style, end in styles:
                if hit := end.search(pattern.text):
                    block = (pattern.component, pattern.container)
                    mine[block].add(style)
                    example = _Example(adapter.uri, adapter.called(_site_of(adapter, pattern)))
                    of_block = stems.setdefault(block, {}).setdefault(style, {})
                    of_block.setdefault(pattern.text[: hit.start()], example)
                    break
        for block, several in mine.items():
            both |= {(*block, one, two) for one in several for two in several}
    for block, by_style in sorted(stems.items()):
        for first, second in combinations(sorted(by_style), 2):
            if (*block, first, second) in both:
                continue
            one, two = by_style[first], by_style[second]
            shared = sorted(one.keys() & two.keys())
            if shared:
                raise _two_ways(f"the {part} of one block", one[shared[0]], two[shared[0]])
            bare = {stem.rstrip("0123456789") for stem in one} & {
                stem.rstrip("0123456789") for stem in two
            }
            if everywhere and not bare:
                raise _two_ways(f"the {part} of one block", one[min(one)], two[min(two)])


def _site_of(adapter: Names, pattern: _Pattern) -> str:
    """The first site of an adapter that a pattern stands for."""
    return min(
        site for site in adapter.sites if pattern in (_pattern(site, True), _pattern(site, False))
    )


def _two_ways(
    what: str, one: _Example, two: _Example, stray: _Example | None = None
) -> LayoutMismatch:
    problem = (
        f"the adapters name {what} in two ways: {one.site} in {one.uri}; {two.site} in {two.uri}. "
        "These differ by more than spelling"
    )
    if stray:
        problem += (
            f", and the names of one way cannot be put for those of the other, as {stray.site} in "
            f"{stray.uri} is a module whose other name is not known"
        )
    return LayoutMismatch(two.uri, problem, _HINT)
