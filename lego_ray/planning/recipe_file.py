"""A library's recipe file: strict YAML, every fault at once, each with its path.

sources: [s3://zoo/adapters]
catalog: s3://zoo/catalog
output: s3://zoo/library
defaults: {rank: 16}
merges:
  - name: summarise
    where: tags.task = 'summarise' and rank <= 16
  - name: french
    adapters: [customers/*-fr]
    options: {n_init: 20}
  - name: support        # one merge a group: support-1, support-2, ...
    groups: auto         # or a number; or {count: auto, alone_below: 0.1}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
)

from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.formats.strict_yaml import YamlFault, load_strict
from lego_ray.methods.presets import how_to_merge
from lego_ray.planning.group_options import GroupOptions, group_count
from lego_ray.planning.rank_options import asked_rank
from lego_ray.planning.recipe import Recipe

# A recipe of a thousand merges by list is a few hundred kilobytes.
MAX_CHARACTERS = 4 << 20

Text = Annotated[str, Field(min_length=1)]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", value):
        raise ValueError("expected at most 200 letters, digits, dots, dashes and underscores")
    return value


def _rank(value: object) -> object:
    if value != "auto" and type(value) is not int:  # one below 1 is found with the other faults
        raise ValueError("expected auto or a whole number of at least 1")
    return value


def _count(value: object) -> object:
    try:
        return group_count(value)
    except InvalidOption:
        raise ValueError("expected auto or a whole number of at least 1") from None


def _scale(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a number or a rule")
    return value


Name = Annotated[str, AfterValidator(_name)]  # it becomes a directory
Rank = Annotated[int | Literal["auto"], WrapValidator(lambda value, _: _rank(value))]
Count = Annotated[int | None, WrapValidator(lambda value, _: _count(value))]
Scale = Annotated[float | str, WrapValidator(lambda value, _: _scale(value))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SiteOverride(_Model):
    """What some sites have of their own.

    Attributes:
        rank: Merged rank.
        scale: Factor on the merged update.
    """

    rank: Annotated[int, Field(ge=1)] | None = None
    scale: float | None = None


class _Groups(_Model):
    count: Count = None
    alone_below: Annotated[float, Field(ge=-1, le=1)] | None = None


def _groups(value: object, handler: Callable[[object], _Groups]) -> _Groups:
    """A mapping, or the count alone."""
    if not isinstance(value, dict):
        _count(value)
        value = {"count": value}
    return handler(value)


class _Settings(_Model):
    """What a merge is asked for; left out, the library's `defaults`, then those of `merge`."""

    rank: Rank | None = None
    rank_error: float | None = None
    rank_budget: int | None = None
    preset: Text | None = None
    method: Text | None = None
    options: Mapping[str, Any] | None = None
    seed: int | None = None
    dtype: Text | None = None
    base_model: str | None = None
    exclude: Sequence[Text] | None = None
    compact: bool | None = None
    updatable: bool | None = None
    weights: Mapping[str, float] | None = None
    output_scale: Scale | None = None
    sites: Mapping[str, SiteOverride] | None = None


class _Merge(_Settings):
    name: Name
    adapters: Annotated[Sequence[Text], Field(min_length=1)] | None = None
    where: Text | None = None
    output: Text | None = None
    groups: Annotated[_Groups, WrapValidator(_groups)] | None = None


class _File(_Model):
    version: Literal[1] = 1
    sources: Annotated[Sequence[Text], Field(min_length=1)] | None = None
    full_weights: Text = "refuse"
    catalog: Text | None = None
    output: Text | None = None
    defaults: _Settings = _Settings()
    merges: Annotated[Sequence[_Merge], Field(min_length=1)]


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
    """

    recipe: Recipe
    adapters: tuple[str, ...] = ()
    where: str = ""
    output: str = ""
    site_ranks: Mapping[str, int] = field(default_factory=dict)
    groups: GroupOptions | None = None


@dataclass(frozen=True, slots=True)
class LibraryRecipe:
    """Several merges over one zoo.

    Attributes:
        sources: Where the adapters are; empty for those of the catalog.
        full_weights: As in `Recipe`.
        catalog: The catalog's URI; empty for none.
        output: Where the merges go, each below its name; empty if not said.
        entries: The merges.
    """

    sources: tuple[str, ...]
    full_weights: str
    catalog: str
    output: str
    entries: tuple[MergeEntry, ...]


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
        raise RecipeError(where, (str(error),)) from None
    if not isinstance(content, dict):
        raise RecipeError(where, ("it is no mapping; expected keys such as sources and merges",))
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise RecipeError(where, tuple(_faults(error))) from None
    entries: list[MergeEntry] = []
    faults: list[str] = []
    names: set[str] = set()
    for number, merge in enumerate(file.merges):
        path = f"merges[{number}]"
        if merge.name in names:
            faults.append(f"{path}.name: {merge.name} is the name of another merge")
        names.add(merge.name)
        settings = _settings(file, merge)
        found = [*_method_taken(settings, path), *_faults_of(settings, path)]
        faults += found
        site_ranks = {n: own.rank for n, own in _sites(file, merge).items() if own.rank is not None}
        if site_ranks and settings.get("rank", "auto") == "auto":
            faults.append(f"{path}.sites: ranks of sites go with a rank that is a number")
            continue
        if found:
            continue
        try:
            entries.append(_entry(_recipe(settings), merge, site_ranks))
        except InvalidOption as error:  # of settings that are sound by themselves
            faults.append(f"{path}.updatable: {_said(error)}")
    faults += _faults_of_group_names(file.merges)
    if not file.sources and not file.catalog:
        faults.append("sources: missing; expected places of adapters, or a catalog that lists them")
    if faults:
        raise RecipeError(where, tuple(faults))
    return LibraryRecipe(
        sources=tuple(file.sources or ()),
        full_weights=file.full_weights,
        catalog=file.catalog or "",
        output=file.output or "",
        entries=tuple(entries),
    )


_RANKS = ("rank", "rank_error", "rank_budget")
_HOW = ("preset", "method", "options", "output_scale")


def _settings(file: _File, merge: _Merge) -> dict[str, Any]:
    """What a merge is asked for: its own; the defaults' options with their method, ranks all or none."""
    names = [name for name in _Settings.model_fields if name != "sites"]
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
    if given.keys() & set(_RANKS):
        common = {n: value for n, value in common.items() if n not in _RANKS}
    settings = {**common, **given, "name": merge.name, "full_weights": file.full_weights}
    settings["exclude"] = tuple(settings.get("exclude", ()))
    scales = {name: own.scale for name, own in _sites(file, merge).items() if own.scale is not None}
    return {**settings, "site_scales": scales} if scales else settings


def _method_taken(settings: dict[str, Any], path: str) -> Iterator[str]:
    """Puts a method with its output scale in the place of what was said of them."""
    preset, method, options, scale = (settings.pop(name, None) for name in _HOW)
    try:
        settings |= how_to_merge(preset, method, options or {}, scale)
    except InvalidOption as error:
        where = error.where.removeprefix("--").replace("-", "_")
        yield f"{path}.{where if where in _HOW else f'options.{where}'}: {_said(error)}"


def _sites(file: _File, merge: _Merge) -> Mapping[str, SiteOverride]:
    return {**(file.defaults.sites or {}), **(merge.sites or {})}


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    asked = dict(settings)
    ranks = asked_rank(*(asked.pop(name, None) for name in _RANKS))
    return Recipe(**asked, **ranks)


def _faults_of(settings: dict[str, Any], path: str) -> Iterator[str]:
    """What `Recipe` has against some settings, tried one by one so that no fault hides another."""
    ranks = {name: settings[name] for name in _RANKS if name in settings}
    if not ranks:
        yield f"{path}.rank: missing; expected it here or in defaults"
    sound: dict[str, Any] = {"name": settings["name"], "rank": 1}
    tried = [(next(iter(ranks)), {**ranks, "name": settings["name"]})] if ranks else []
    tried += [(key, {**sound, key: value}) for key, value in settings.items() if key not in _RANKS]
    for key, asked in tried:
        if key in ("name", "options"):
            continue
        try:
            _recipe(asked)
        except InvalidOption as error:
            yield f"{path}.{'sites' if key == 'site_scales' else key}: {_said(error)}"
            if key == "method":
                return
    if method := settings.get("method"):
        sound["method"] = method
    for option, value in settings.get("options", {}).items():
        try:
            Recipe(**sound, options={option: value})
        except InvalidOption as error:
            yield f"{path}.options.{option}: {_said(error)}"
        except TypeError:
            yield f"{path}.options.{option}: {value!r} is of the wrong type"


def _faults_of_group_names(merges: Sequence[_Merge]) -> Iterator[str]:
    grouped = [merge.name for merge in merges if merge.groups]
    for number, merge in enumerate(merges):
        of, dash, digits = merge.name.rpartition("-")
        if dash and digits.isdecimal() and of in grouped and not merge.groups:
            yield f"merges[{number}].name: {merge.name} is what a group of {of} may be called"


def _said(error: InvalidOption) -> str:
    """In a list of faults, only a hint that is about this one is worth its place."""
    if error.hint == error.advice:
        return error.problem
    return f"{error.problem}. {error.hint}".rstrip(". ")


def _entry(recipe: Recipe, merge: _Merge, site_ranks: Mapping[str, int]) -> MergeEntry:
    return MergeEntry(
        recipe=recipe,
        adapters=tuple(merge.adapters or ()),
        where=merge.where or "",
        output=merge.output or "",
        site_ranks=site_ranks,
        groups=GroupOptions(**dict(merge.groups)) if merge.groups else None,
    )


def _faults(error: ValidationError) -> Iterator[str]:
    """Pydantic's findings in this family's words."""
    for found in error.errors(include_url=False):
        location = found["loc"]
        if found["type"] == "extra_forbidden":
            said = f"no such key. {_nearest(str(location[-1]), location[:-1])}"
        elif found["type"] == "missing":
            said = "missing"
        else:
            wanted = found["msg"].removeprefix("Value error, expected ")
            wanted = wanted.removeprefix("Input should be ")
            if found["type"] == "too_short":
                wanted = "at least one"
            said = f"{found['input']!r}; expected {wanted}"
        yield f"{_path(location)}: {said}"


def _path(location: tuple[str | int, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _nearest(key: str, parent: tuple[str | int, ...]) -> str:
    model: type[BaseModel] = _File
    for part in parent:
        if isinstance(part, str) and part in model.model_fields:  # else the name of a site
            model = _model_of(model.model_fields[part].annotation) or model
    near = get_close_matches(key, list(model.model_fields), n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(model.model_fields)}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model within an annotation such as `Sequence[Model] | None`."""
    if get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model else None
    return next((m for a in get_args(annotation) if (m := _model_of(a))), None)
