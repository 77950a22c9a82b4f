"""What may be written in a library's recipe file, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, WrapValidator, create_model

from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.formats.forms import Form, read_as
from lego_ray.options import keywords_of
from lego_ray.planning.group_options import group_count
from lego_ray.planning.options import ResultOptions, SourceOptions
from lego_ray.storage.buckets import Bucket, BucketSettings

Text = Annotated[str, Field(min_length=1)]


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", value):
        raise ValueError("expected at most 200 letters, digits, dots, dashes and underscores")
    return value


def _rank(value: object) -> object:
    if value != "auto" and type(value) is not int:  # one below 1 is found with the other faults
        raise ValueError("expected auto or a whole number of at least 1")
    return value


def _ranks(value: Sequence[int]) -> Sequence[int]:
    if not value or len(set(value)) < len(value):
        raise ValueError("expected different whole numbers of at least 1, one or more")
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
Ranks = Annotated[Sequence[Annotated[int, Field(ge=1)]], AfterValidator(_ranks)]
Count = Annotated[int | None, WrapValidator(lambda value, _: _count(value))]
Scale = Annotated[float | str, WrapValidator(lambda value, _: _scale(value))]


class _Model(Form):
    model_config = ConfigDict(extra="forbid")


class SiteOverride(_Model):
    """What some sites have of their own.

    Attributes:
        rank: Merged rank.
        scale: Factor on the merged update.
    """

    rank: Annotated[int, Field(ge=1)] | None = None
    scale: float | None = None


class GroupsForm(_Model):
    """How a merge's adapters are put into groups; the attributes are those of `GroupOptions`."""

    count: Count = None
    alone_below: Annotated[float, Field(ge=-1, le=1)] | None = None


def _groups(value: object, handler: Callable[[object], GroupsForm]) -> GroupsForm:
    """A mapping, or the count alone."""
    if not isinstance(value, dict):
        _count(value)
        value = {"count": value}
    return handler(value)


class _Settings(_Model):
    """What a merge is asked for; left out, the library's `defaults`, then those of `merge`.

    Its other fields are the options of a recipe, made from their home.
    """

    if TYPE_CHECKING:
        ranks: Sequence[int] | None = None
        options: Mapping[str, Any] | None = None
        sites: Mapping[str, SiteOverride] | None = None


def _field(name: str) -> Any:
    """The type of an option in a recipe file, where it may be left out."""
    if name in _FORMS:
        return _FORMS[name] | None
    if keywords_of(_Options)[name].option.choices:
        return Text | None
    return get_type_hints(_Options)[name] | None


class _Options(SourceOptions, ResultOptions, total=False):
    pass


_FORMS: Mapping[str, Any] = {
    "rank": Rank,
    "output_scale": Scale,
    "spectrum": Scale,
    "exclude": Sequence[Text],
}
# What a library has once, or writes in another way.
_ELSEWHERE = {"name", "base", "full_weights", "checkpoints", "scan_limits", "site_scales"}
SETTINGS = tuple(name for name in keywords_of(_Options) if name not in _ELSEWHERE)
if TYPE_CHECKING:
    SettingsForm = _Settings
else:
    SettingsForm = create_model(
        "SettingsForm",
        __base__=_Settings,
        **{name: (_field(name), None) for name in SETTINGS},
        ranks=(Ranks | None, None),
        options=(Mapping[str, Any] | None, None),
        sites=(Mapping[str, SiteOverride] | None, None),
    )


class MergeForm(SettingsForm):
    """One merge, or one per group: its name, its adapters and its settings."""

    name: Name
    adapters: Annotated[Sequence[Text], Field(min_length=1)] | None = None
    where: Text | None = None
    output: Text | None = None
    groups: Annotated[GroupsForm, WrapValidator(_groups)] | None = None


class LibraryForm(_Model):
    """The whole file."""

    version: Literal[1] = 1
    sources: Annotated[Sequence[Text], Field(min_length=1)] | None = None
    full_weights: Text = "refuse"
    base: Text | None = None
    checkpoints: Literal["last", "all"] = "last"
    scan_limits: Mapping[str, float] | None = None
    tags: Text | None = None
    tags_from_folders: Text | None = None
    catalog: Text | None = None
    output: Text | None = None
    buckets: Mapping[Bucket, BucketSettings] = {}
    defaults: SettingsForm = SettingsForm()
    tune: Mapping[Any, Any] | None = None
    merges: Annotated[Sequence[MergeForm], Field(min_length=1)]


def read_form(content: Mapping[Any, Any], where: str) -> LibraryForm:
    """Holds a file's content against its form.

    Args:
        content: What YAML made of it.
        where: What to call it in errors.

    Raises:
        RecipeError: Naming every fault, each with its path.
    """
    return read_as(LibraryForm, content, lambda faults: RecipeError(where, faults))
