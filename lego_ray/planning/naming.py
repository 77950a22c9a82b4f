"""One name for each module of a merge, whatever its adapters call it. Pure.

Names in one spelling stay as they are, so a zoo in one spelling is merged as it always was.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.layouts import WRITTEN_AS
from lego_ray.formats.module_names import DENOISER, STANDARD, ModuleName, flattened, parse_name
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.text_encoders import parse_names
from lego_ray.formats.wrappers import UNWRAPPED, unwrapped, without_doubt
from lego_ray.planning.asked_layout import in_layout
from lego_ray.planning.by_head import (
    REORDERED,
    check_parts_by_heads,
    in_order_of,
    in_order_of_parts,
)
from lego_ray.planning.dialects import as_known, in_one_dialect
from lego_ray.planning.differences import with_named_differences
from lego_ray.planning.layer_trees import in_new_layers, layer_renames
from lego_ray.planning.model_trees import in_new_tree, tree_renames
from lego_ray.planning.styles import in_one_style
from lego_ray.planning.wrapped import without_wrappers

# Begins the note of an adapter whose modules are called otherwise than in its file.
RESPELLED = "module names are spelled otherwise in the merge:"
# How the notes begin that `warnings_of_names` sums up, a warning each.
MARKS = (RESPELLED, UNWRAPPED, REORDERED)

_HINT = "Merge them separately (--exclude), or convert them to one spelling first."
# Parts of pipelines that have names in diffusers alone, and its name of the denoiser beside them.
_BESIDE = re.compile(r"(?:connectors|transformer_2|transformer_ref|text_conditioner)\.")
_DIFFUSERS = "transformer."


def agreed_names(
    adapters: Sequence[AdapterRecord], layout: str, asked: str = "sources", base_model: str = ""
) -> tuple[AdapterRecord, ...]:
    """The adapters, each module under one name.

    The spelling is the one that most adapters have; of equals the one that most readers know. Where a
    module is known only with its dots as underscores, all are written so. Of a vision-language model's
    old and new module trees it is the new one, and so of names that transformers 5 changed.

    Args:
        adapters: In any order, which has no influence on the names.
        layout: What the merge is written in, as far as the adapters say.
        asked: The layout whose names are asked for, or `sources` for theirs.
        base_model: Name of the base model, which decides if the modules could be those of several.

    Returns:
        The adapters in the order given, those renamed with a note that says so.

    Raises:
        LayoutMismatch: If a name could mean either of two modules, a file would have names of two
            styles, the layout asked for has no certain name for a module, or rows are in two orders.
    """
    adapters = in_order_of_parts(adapters, asked)
    named = _agreed(adapters, layout, asked, base_model)
    return tuple(with_named_differences(adapters, named, base_model))


def _agreed(
    adapters: Sequence[AdapterRecord], layout: str, asked: str, base_model: str
) -> Sequence[AdapterRecord]:
    """The adapters, each site under one name; see `agreed_names`."""
    named = _renamed(adapters, without_wrappers(list(_counted(adapters))))
    if not output_layout(layout).is_pipeline:
        named = _renamed(named, tree_renames(_counted(named)))
        named = _renamed(named, layer_renames(_counted(named)))
        return named if asked == "sources" else in_layout(named, layout, asked)
    before = list(_counted(named))
    named_before, spoken = named, in_one_dialect(named, base_model)
    is_mixed = spoken is not named or len({adapter.format for adapter in adapters}) > 1
    named = _renamed(spoken, _Spellings(_counted(spoken), layout, base_model).renames())
    if is_mixed:
        named = _renamed(named, in_one_style(before, list(_counted(named)), base_model))
    if asked != "sources":
        named = in_layout(named, layout, asked, base_model, is_respelled=spoken is not named_before)
    return _noted(adapters, named)


def named_as(
    adapters: Sequence[AdapterRecord],
    known: Mapping[str, tuple[int, int]],
    layout: str,
    *,
    by_heads: bool = False,
) -> tuple[AdapterRecord, ...]:
    """The adapters, with the names that a merge has for modules it knows.

    Args:
        adapters: Any.
        known: d_in and d_out at each of the merge's sites, by name.
        layout: What the merge is written in.
        by_heads: Whether its rows are by heads; see `by_head.is_by_heads`.

    Raises:
        LayoutMismatch: If an adapter has what cannot be put in the order of the merge's rows.
    """
    adapters = in_order_of(adapters, by_heads=by_heads)
    is_pipeline = output_layout(layout).is_pipeline or any(
        output_layout(WRITTEN_AS[adapter.format]).is_pipeline for adapter in adapters
    )
    if is_pipeline:
        adapters = _noted(adapters, [as_known(adapter, known) for adapter in adapters])
    every = {factors.site for adapter in adapters for factors in adapter.sites}.union(known)
    module: dict[str, object] = {}
    if is_pipeline:
        names = parse_names(map(_plain, every), strict=False)
        module.update((site, names[_plain(site)].module) for site in every)
    else:
        module.update((site, _in_tree(site)) for site in every)
    called: dict[object, set[str]] = defaultdict(set)
    for site in known:
        called[module[site]].add(site)
    out: list[AdapterRecord] = []
    for adapter in adapters:
        mine = Counter(module[factors.site] for factors in adapter.sites)
        renames = {
            factors.site: min(called[module[factors.site]])
            for factors in adapter.sites
            if factors.site not in known
            and len(called.get(module[factors.site], ())) == 1
            and mine[module[factors.site]] == 1
        }
        out += _renamed([adapter], renames)
    if by_heads:
        check_parts_by_heads(out)
    return tuple(out)


def has_other_names(adapter: AdapterRecord) -> bool:
    """Whether modules of an adapter are called otherwise than in its file."""
    return any(note.startswith((RESPELLED, UNWRAPPED)) for note in adapter.notes)


def warnings_of_names(adapters: Iterable[AdapterRecord]) -> Iterable[str]:
    """What to tell of names that were changed, one line for each kind of change."""
    for mark in MARKS:
        noted = [(a.uri, n) for a in adapters for n in a.notes if n.startswith(mark)]
        if noted:
            uri, note = noted[0]
            others = len(noted) - 1
            more = f" (and in {others} other adapter{'s' * (others > 1)})" if others else ""
            yield f"{uri}: {note}{more}"


def _plain(site: str) -> str:
    return without_doubt(unwrapped(site))


def _in_tree(site: str) -> str:
    return in_new_layers(in_new_tree(_plain(site)))


def _counted(adapters: Iterable[AdapterRecord]) -> Counter[tuple[str, ...]]:
    """Sites, and how many adapters have just these."""
    return Counter(tuple(factors.site for factors in adapter.sites) for adapter in adapters)


def _renamed(
    adapters: Sequence[AdapterRecord], renames: Mapping[str, str]
) -> Sequence[AdapterRecord]:
    return [_rename(adapter, renames) for adapter in adapters] if renames else adapters


def _noted(
    before: Sequence[AdapterRecord], after: Sequence[AdapterRecord]
) -> Sequence[AdapterRecord]:
    """Adapters whose modules have other names, or are several now, with a note that says so."""
    return [one if one is two else _note(one, two) for one, two in zip(before, after, strict=True)]


def _note(before: AdapterRecord, after: AdapterRecord) -> AdapterRecord:
    names = {factors.site for factors in after.sites}
    changed = [factors for factors in before.sites if factors.site not in names]
    if not changed:  # though they may have had other names in between
        kept = tuple(n for n in after.notes if not n.startswith(RESPELLED) or n in before.notes)
        return after if kept == after.notes else replace(after, notes=kept)
    first = changed[0]
    whole = [f.site for f in after.sites if any(first == each.factors for each in f.blocks)]
    there = whole or sorted(f.site for f in after.sites if (f.a, f.b) == (first.a, first.b))
    count = f"{len(changed)} of its modules, such as" if len(changed) > 1 else "its module"
    are = "is a part of" if whole else "is" if len(there) == 1 else "are"
    note = f"{RESPELLED} {count} {first.site}, which {are} {', '.join(there)} there"
    notes = (*(n for n in after.notes if not n.startswith(RESPELLED)), note)
    return replace(after, notes=notes)


def _rename(adapter: AdapterRecord, renames: Mapping[str, str]) -> AdapterRecord:
    changed = [f.site for f in adapter.sites if renames.get(f.site, f.site) != f.site]
    if not changed:
        return adapter
    sites = (replace(f, site=renames.get(f.site, f.site)) for f in adapter.sites)
    count = f"{len(changed)} of its modules, such as" if len(changed) > 1 else "its module"
    note = f"{RESPELLED} {count} {changed[0]}, which is {renames[changed[0]]} there"
    notes = (*(n for n in adapter.notes if not n.startswith(RESPELLED)), note)
    return replace(adapter, sites=tuple(sorted(sites, key=lambda f: f.site)), notes=notes)


# What spellings of one module have in common.
_Key = tuple[str, str]


@dataclass(slots=True)
class _Spellings:
    """The names that adapters have for the modules of a pipeline.

    Attributes:
        kinds: Sites of adapters, and how many adapters have just these.
        layout: What the merge is written in.
        base_model: Name of the base model; may be empty.
    """

    kinds: Mapping[tuple[str, ...], int]
    layout: str
    base_model: str = ""

    def renames(self) -> dict[str, str]:
        """The new name of each site that gets one."""
        count: Counter[str] = Counter()
        for sites, adapters in self.kinds.items():
            count.update(dict.fromkeys(sites, adapters))
        names = _parsed(count, self.layout, self.base_model)
        modules: dict[_Key, list[ModuleName]] = defaultdict(list)
        for name in names.values():
            modules[name.module].append(name)
        several = {module for module, mine in modules.items() if len(mine) > 1}
        apart = self._apart(names, several)
        renames: dict[str, str] = {}
        for component in sorted({module[0] for module in several} | self._mixed(names)):
            spelled: dict[_Key, list[ModuleName]] = defaultdict(list)
            exact: set[_Key] = set()
            for module, mine in modules.items():
                for name in mine if module[0] == component else ():
                    key = (component, name.path) if module in apart else module
                    spelled[key].append(name)
                    exact.update([key] if module in apart else [])
            prefix = self._prefix(component, names, spelled, exact)
            lead = _lead(component, prefix, names, count)
            for same in spelled.values():
                new = _spelled(same, prefix, count, lead)
                renames.update({name.site: new for name in same if name.site != new})
        return renames

    def _mixed(self, names: Mapping[str, ModuleName]) -> set[str]:
        """Components that adapters begin in several ways, and none in two itself.

        diffusers reads one of them only, also where the modules differ.
        """
        every: dict[str, set[str]] = defaultdict(set)
        itself: set[str] = set()
        for kind in self.kinds:
            mine: dict[str, set[str]] = defaultdict(set)
            for name in map(names.__getitem__, kind):
                mine[name.component].add(name.prefix)
            for component, prefixes in mine.items():
                every[component] |= prefixes
                itself |= {component} if len(prefixes) > 1 else set()
        return {c for c, prefixes in every.items() if c and len(prefixes) > 1} - itself

    def _apart(self, names: Mapping[str, ModuleName], several: set[_Key]) -> set[_Key]:
        """Modules whose flattened names are those of two, as an adapter shows that has both.

        Raises:
            LayoutMismatch: If another adapter's name could be either.
        """
        by_module: dict[_Key, list[str]] = defaultdict(list)
        for site, name in names.items():
            by_module[name.module].append(site)
        both: dict[_Key, set[str]] = defaultdict(set)
        for kind in self.kinds if several else ():
            mine: dict[_Key, list[str]] = defaultdict(list)
            for site in kind:
                if names[site].module in several:
                    mine[names[site].module].append(site)
            for module, sites in mine.items():
                both[module].update(sites if len(sites) > 1 else ())
        apart = {module: sites for module, sites in both.items() if sites}
        paths = {module: {names[site].path for site in sites} for module, sites in apart.items()}
        for site in sorted(site for module in apart for site in by_module[module]):
            name = names[site]
            if name.is_flat or name.path not in paths[name.module]:
                listed = " and ".join(sorted(apart[name.module])[:2])
                problem = f"it could be either of {listed}, which another adapter has both"
                raise LayoutMismatch(site, problem, _HINT)
        return set(apart)

    def _prefix(
        self,
        component: str,
        names: Mapping[str, ModuleName],
        spelled: Mapping[_Key, Sequence[ModuleName]],
        exact: set[_Key],
    ) -> str:
        """What all names of a component begin with."""
        votes: Counter[str] = Counter()
        for kind, adapters in self.kinds.items():
            mine = (names[site] for site in kind)
            here = {name.prefix for name in mine if name.component == component}
            votes.update(dict.fromkeys(here, adapters))
        dotted = all(any(not name.is_flat for name in same) for same in spelled.values())
        several = any(name.component in ("text 2", "t5") for name in names.values())
        several |= any(name.prefix == "lora_transformer_" for name in names.values())
        fitting = [p for p in votes if (not exact if p.endswith("_") else dotted)]
        if not fitting:
            first, second = sorted(name.site for key in exact for name in spelled[key])[:2]
            flat = min(n.site for same in spelled.values() for n in same if n.is_flat)
            problem = (
                f"it is known only with underscores for dots, and written so, {first} and {second} "
                "of another adapter would be one module"
            )
            raise LayoutMismatch(flat, problem, _HINT)
        if component == DENOISER and _DIFFUSERS in fitting and any(map(_BESIDE.match, names)):
            return _DIFFUSERS
        return min(fitting, key=lambda p: (-votes[p], _standing(p, several), p))


def _parsed(sites: Iterable[str], layout: str, base_model: str) -> dict[str, ModuleName]:
    """Names by site. A bare path is the denoiser's where it has a module that others prefix.

    diffusers' own prefixes are the components of its pipelines.
    """
    if output_layout(layout).has_components:
        names = {site: parse_name(site) for site in sites}
        return {site: replace(name, component=name.prefix) for site, name in names.items()}
    names = parse_names(sites, base_model)
    bare = {name.module for name in names.values() if not name.prefix}
    if bare and not any(name.module in bare for name in names.values() if name.prefix):
        names = {s: n if n.prefix else replace(n, component="") for s, n in names.items()}
    return names


def _standing(prefix: str, several: bool) -> int:
    """Place in the order of preference; `lora_te1_` is the name where there are more encoders."""
    if several and prefix in ("lora_te_", "lora_te1_"):
        prefix = "lora_te1_" if prefix == "lora_te_" else "lora_te_"
    return STANDARD.index(prefix) if prefix in STANDARD else len(STANDARD)


def _lead(
    component: str, prefix: str, names: Mapping[str, ModuleName], count: Mapping[str, int]
) -> str | None:
    """What most names with a prefix have before the layers of a language model; None for none."""
    votes: Counter[str] = Counter()
    for name in names.values():
        if name.component == component and name.prefix == prefix and name.has_lead:
            votes[name.lead] += count[name.site]
    return min(votes, key=lambda lead: (-votes[lead], lead)) if votes else None


def _spelled(
    same: Sequence[ModuleName], prefix: str, count: Mapping[str, int], lead: str | None
) -> str:
    """The name of a module with a prefix: as most have it, or made from another's path."""
    flat = prefix.endswith("_")

    def order(name: ModuleName) -> tuple[bool, bool, int, int, str]:
        return (
            name.prefix != prefix,
            name.is_flat != flat,
            -count[name.site],
            name.path.count(".") + name.path.count("__"),
            name.site,
        )

    usable = [name for name in same if flat or not name.is_flat]
    best = min(usable, key=order)
    is_led = lead is None or not best.has_lead or best.lead == lead
    if best.prefix == prefix and (is_led or best.component != DENOISER):
        return best.site
    path = best.path
    if lead is not None and best.has_lead:
        path = f"{lead}{path[len(best.lead) :]}"
    path = flattened(path) if flat else path
    if flat and best.component.startswith("text") and path.startswith("encoder_layers_"):
        path = f"text_model_{path}"
    return f"{prefix}{path}"
