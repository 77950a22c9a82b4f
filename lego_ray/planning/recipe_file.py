"""A library's recipe file: strict YAML, every fault at once, each with its path.

sources: [s3://zoo/adapters]
catalog: s3://zoo/catalog
output: s3://zoo/library
defaults: {rank: 16}
merges:
  - name: summarize
    where: tags.task = 'summarize' and rank <= 16
  - name: french
    adapters: [customers/*-fr]
    options: {n_init: 20}
  - name: support        # one merge a group: support-1, support-2, ...
    groups: auto         # or a number; or {count: auto, alone_below: 0.1}
  - name: sweep          # one merge a rank, from one read: sweep-rank-8, sweep-rank-16
    ranks: [8, 16]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from lego_ray.errors import InvalidOption, RecipeError, UnsupportedUri
from lego_ray.formats.strict_yaml import YamlFault, load_strict
from lego_ray.methods.presets import how_to_merge
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.rank_entries import RANKS, at_ranks
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_faults import (
    faults_of,
    faults_of_group_names,
    recipe_with,
    said_of,
)
from lego_ray.planning.recipe_form import (
    LibraryForm,
    MergeForm,
    SettingsForm,
    SiteOverride,
    read_form,
)
from lego_ray.planning.scan_limits import DEFAULT_LIMITS, ScanLimits, checked_limits
from lego_ray.planning.tags import NO_TAGGING, Tagging, parse_folders
from lego_ray.storage.buckets import BucketSettings
from lego_ray.storage.uri import parse_uri

# A recipe of a thousand merges by list is a few hundred kilobytes.
MAX_CHARACTERS = 4 << 20


@dataclass(frozen=True, slots=True)
class MergeEntry:
    """One entry of a library: which adapters, and what to make of them.

    Attributes:
        recipe: What to make.
        adapters: Names, globs or URIs of the adapters; empty for all.
        where: An SQL condition over the catalog's `adapters`; empty for all.
        output: Where it goes, if not below the library's output; of groups, what they go below.
        site_ranks: Merged rank of sites, by name or glob, where that is not the recipe's.
        groups: How the adapters are put into groups, each of which is merged; None to merge them all.
        given: What the file says of the recipe, by key; what it leaves out is not in it.
    """

    recipe: Recipe
    adapters: tuple[str, ...] = ()
    where: str = ""
    output: str = ""
    site_ranks: Mapping[str, int] = field(default_factory=dict)
    groups: GroupOptions | None = None
    given: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LibraryRecipe:
    """Several merges over one zoo.

    Attributes:
        sources: Where the adapters are; empty for those of the catalog.
        full_weights: As in `Recipe`.
        catalog: The catalog's URI; empty for none.
        output: Where the merges go, each below its name; empty if not said.
        entries: The merges.
        checkpoints: Whether to take one adapter per training run (`last`), or `all`.
        scan_limits: The most that a scan of the sources may list and read.
        base: As in `Recipe`.
        buckets: Settings of single buckets on S3, by their names.
        exclude: Glob patterns; adapters whose path matches one are not even read.
        tags: A table of tags, as the file names it; empty for none.
        tags_from_folders: A pattern of folders; empty for none.
        tagging: What these say, once the table is read.
        tune: The section of that name, as YAML gives it; only a search reads it. None if there is none.
    """

    sources: tuple[str, ...]
    full_weights: str
    catalog: str
    output: str
    entries: tuple[MergeEntry, ...]
    checkpoints: str = "last"
    scan_limits: ScanLimits = DEFAULT_LIMITS
    base: str = ""
    buckets: Mapping[str, BucketSettings] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    tags: str = ""
    tags_from_folders: str = ""
    tagging: Tagging = NO_TAGGING
    tune: Mapping[Any, Any] | None = None

    def on_base(self, base: str | PathLike[str]) -> LibraryRecipe:
        """The library with another base model.

        Args:
            base: Where it is.

        Raises:
            UnsupportedUri: If it is no URI.
        """
        place = str(parse_uri(base))
        entries = (replace(each, recipe=replace(each.recipe, base=place)) for each in self.entries)
        return replace(self, base=place, entries=tuple(entries))


def parse_recipe_file(text: str, where: str) -> LibraryRecipe:
    """Reads a recipe file.

    Args:
        text: Its content.
        where: What to call it in errors.

    Raises:
        RecipeError: Naming every fault, each with its path.
    """
    if len(text) > MAX_CHARACTERS:
        fault = f"it has {len(text)} characters; expected at most {MAX_CHARACTERS}"
        raise RecipeError(where, (fault,))
    try:
        content = load_strict(text)
    except YamlFault as error:
        said = str(error)
        if "'@'" in said:  # YAML keeps it for itself
            said = f'{said.rstrip(".")}; put the name of a list in quotes: "@list.txt"'
        raise RecipeError(where, (said,)) from None
    if not isinstance(content, dict):
        raise RecipeError(where, ("it is not a mapping; expected keys such as sources and merges",))
    file = read_form(content, where)
    entries: list[MergeEntry] = []
    faults: list[str] = []
    names: set[str] = set()
    for number, merge in enumerate(file.merges):
        path = f"merges[{number}]"
        for at_rank, settings in at_ranks(merge, _settings(file, merge), path, faults):
            if at_rank.name in names:
                faults.append(f"{path}.name: {at_rank.name} is the name of another merge")
            names.add(at_rank.name)
            made, found = _entry_of(file, at_rank, settings, path)
            faults += [fault for fault in found if fault not in faults]
            entries += made
    faults += faults_of_group_names(file.merges)
    try:
        limits = checked_limits(file.scan_limits)
    except InvalidOption as error:
        faults.append(f"scan_limits: {said_of(error)}")
    try:
        if file.tags_from_folders:
            parse_folders(file.tags_from_folders)
    except InvalidOption as error:
        faults.append(f"tags_from_folders: {said_of(error)}")
    if not file.sources and not file.catalog:
        faults.append("sources: missing; expected places of adapters, or a catalog that lists them")
    try:
        base = str(parse_uri(file.base)) if file.base else ""
        Recipe(name="base", rank=1, base=base)
    except (UnsupportedUri, InvalidOption) as error:
        faults.append(f"base: {error.problem}")
    if faults:
        raise RecipeError(where, tuple(faults))
    library = LibraryRecipe(
        sources=tuple(file.sources or ()),
        full_weights=file.full_weights,
        catalog=file.catalog or "",
        output=file.output or "",
        entries=tuple(entries),
        checkpoints=file.checkpoints,
        scan_limits=limits,
        buckets=file.buckets,
        tags=file.tags or "",
        tags_from_folders=file.tags_from_folders or "",
        tune=file.tune,
    )
    return library.on_base(base) if base else library


_HOW = ("preset", "method", "options", "output_scale", "spectrum")


def _entry_of(
    file: LibraryForm, merge: MergeForm, settings: dict[str, Any], path: str
) -> tuple[list[MergeEntry], list[str]]:
    """The entry of a merge, and its faults, one of which leaves no entry."""
    given = dict(settings)
    faults = [*_method_taken(settings, path), *faults_of(settings, path)]
    site_ranks = {n: own.rank for n, own in _sites(file, merge).items() if own.rank is not None}
    if site_ranks and settings.get("rank", "auto") == "auto":
        faults.append(f"{path}.sites: ranks of sites go with a rank that is a number")
    if faults:
        return [], faults
    try:
        return [_entry(recipe_with(settings), merge, site_ranks, given)], []
    except InvalidOption as error:  # of settings that are sound by themselves
        return [], [f"{path}.updatable: {said_of(error)}"]


def _settings(file: LibraryForm, merge: MergeForm) -> dict[str, Any]:
    """What a merge is asked for: its own; the defaults' options with their method, ranks all or none."""
    names = [name for name in SettingsForm.model_fields if name != "sites"]
    given = {n: getattr(merge, n) for n in names if getattr(merge, n) is not None}
    common = {n: getattr(file.defaults, n) for n in names if getattr(file.defaults, n) is not None}
    if "preset" in given:
        common = {n: value for n, value in common.items() if n not in _HOW}
    elif "method" in given:
        common.pop("preset", None)
    if given.get("method", common.get("method")) == common.get("method"):
        given["options"] = {**common.get("options", {}), **given.get("options", {})}
    else:
        common.pop("options", None)
    if given.keys() & {*RANKS, "ranks"}:
        common = {n: value for n, value in common.items() if n not in (*RANKS, "ranks")}
    settings = {**common, **given, "name": merge.name, "full_weights": file.full_weights}
    settings["exclude"] = tuple(settings.get("exclude", ()))
    scales = {name: own.scale for name, own in _sites(file, merge).items() if own.scale is not None}
    return {**settings, "site_scales": scales} if scales else settings


def _method_taken(settings: dict[str, Any], path: str) -> Iterator[str]:
    """Puts a method with its output scale in the place of what was said of them."""
    preset, method, options, scale, spectrum = (settings.pop(name, None) for name in _HOW)
    try:
        settings |= how_to_merge(
            preset,
            method,
            options or {},
            scale,
            spectrum,
            updatable=bool(settings.get("updatable")),
        )
    except InvalidOption as error:
        where = error.where.removeprefix("--").replace("-", "_")
        yield f"{path}.{where if where in _HOW else f'options.{where}'}: {said_of(error)}"


def _sites(file: LibraryForm, merge: MergeForm) -> Mapping[str, SiteOverride]:
    return {**(file.defaults.sites or {}), **(merge.sites or {})}


def _entry(
    recipe: Recipe, merge: MergeForm, site_ranks: Mapping[str, int], given: Mapping[str, Any]
) -> MergeEntry:
    return MergeEntry(
        recipe=recipe,
        adapters=tuple(merge.adapters or ()),
        where=merge.where or "",
        output=merge.output or "",
        site_ranks=site_ranks,
        groups=GroupOptions(**dict(merge.groups)) if merge.groups else None,
        given=given,
    )
