"""Defaults of flags that the user sets: by the environment, or by the settings file."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from lego_ray.journal import note
from lego_ray.settings_file import find_settings_file, read_settings

CATALOG_VARIABLE = "LEGO_RAY_CATALOG"
_META = "lego_ray.settings"


def default_values(ctx: click.Context) -> None:
    """Makes the settings file's values the defaults of a command's flags.

    Defaults that a program sets, as the entry points of Ray jobs do, come before them.

    Args:
        ctx: The command's context, before its words are parsed.

    Raises:
        RecipeError: If the file is not as it must be.
        InvalidOption: If the file that LEGO_RAY_CONFIG names cannot be read.
    """
    file = find_settings_file()
    if file is None or not read_settings(file):
        return
    from lego_ray.storage.buckets import settings_in

    before = ctx.default_map or {}
    own = {param.name for param in ctx.command.params} - before.keys()
    found = {name: value for name, value in settings_in(file).flags().items() if name in own}
    ctx.default_map = {**found, **before}
    ctx.meta[_META] = (file.path, found)


def with_origin(ctx: click.Context, error: click.BadParameter) -> click.BadParameter:
    """The error of a value, which says where the value comes from, if not from the command line.

    Args:
        ctx: The command's context.
        error: The error.
    """
    param = error.param
    if param is None or param.name is None:
        return error
    path, found = ctx.meta.get(_META, ("", {}))
    source = ctx.get_parameter_source(param.name)
    if source is ParameterSource.DEFAULT_MAP and param.name in found:
        origin = f"in {path}"
    elif source is ParameterSource.ENVIRONMENT:
        origin = f"by {param.envvar}"
    else:
        return error
    return click.BadParameter(f"{error.message} It is set {origin}.", ctx, param)


def log_defaults() -> None:
    """Logs what the environment and the settings file set for this command, as the event `settings`."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return
    path, found = ctx.meta.get(_META, ("", {}))
    of_file = {
        name: value
        for name, value in found.items()
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    }
    if of_file:
        note("settings", "", file=path, **of_file)
    if ctx.get_parameter_source("catalog") is ParameterSource.ENVIRONMENT:
        note("settings", "", variable=CATALOG_VARIABLE, catalog=ctx.params["catalog"])


def is_default(name: str) -> bool:
    """Whether the value of a flag of this command comes from the environment or the settings file.

    Args:
        name: The flag's keyword.
    """
    source = click.get_current_context().get_parameter_source(name)
    return source in (ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT)


def without_default_catalog(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command, in which the recipe file's `catalog` comes before a default.

    Args:
        given: The arguments, with `recipe` and `catalog`.

    Raises:
        RecipeError: If the recipe file is not as it must be.
        StorageError: If it cannot be read.
    """
    if not is_default("catalog"):
        return given
    from lego_ray.library.build import read_library
    from lego_ray.storage.uri import parse_uri

    if not read_library(parse_uri(given["recipe"]), given["recipe"]).catalog:
        return given
    click.get_current_context().set_parameter_source("catalog", ParameterSource.DEFAULT)
    return {**given, "catalog": None}
