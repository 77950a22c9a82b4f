"""The settings file: where it is, and what it holds. What its keys mean is in `buckets`.

`lego-ray.toml` of the working directory, or the table `[tool.lego-ray]` of its `pyproject.toml`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lego_ray.errors import InvalidOption, RecipeError

FILE = "lego-ray.toml"
PROJECT = "pyproject.toml"
FILE_VARIABLE = "LEGO_RAY_CONFIG"
_TABLE = "lego-ray"
_NAMED = re.compile(r"tool\s*\.\s*[\"']?lego-ray")


class SettingsFile(NamedTuple):
    """A settings file that exists.

    Attributes:
        path: Its absolute path.
        modified: When it was written, in nanoseconds.
        size: Its size in bytes.
    """

    path: str
    modified: int
    size: int


def find_settings_file() -> SettingsFile | None:
    """Finds the settings file; None if there is none.

    A file named by LEGO_RAY_CONFIG is the only one looked for, and `lego-ray.toml` comes before
    `pyproject.toml`.

    Raises:
        InvalidOption: If the file that LEGO_RAY_CONFIG names cannot be read.
    """
    named = os.environ.get(FILE_VARIABLE)
    for name in [named] if named else [FILE, PROJECT]:
        path = Path(name)
        try:
            about = path.stat()
        except OSError as error:
            if named:
                raise InvalidOption(FILE_VARIABLE, f"{named} cannot be read: {error}") from error
            continue
        return SettingsFile(str(path.absolute()), about.st_mtime_ns, about.st_size)
    return None


@lru_cache(maxsize=8)
def read_settings(file: SettingsFile) -> Mapping[str, Any]:
    """Reads the settings; empty for a `pyproject.toml` without the table.

    Args:
        file: The file, by `find_settings_file`.

    Raises:
        RecipeError: If it is not TOML, or the table is not a table.
    """
    try:
        text = Path(file.path).read_text()
        is_project = Path(file.path).name == PROJECT
        if is_project and not _NAMED.search(text):  # then its other faults are not lego-ray's
            return {}
        content: Mapping[str, Any] = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise RecipeError(file.path, (f"it is not TOML: {error}",)) from error
    if not is_project:
        return content
    tools = content.get("tool", {})
    table = tools.get(_TABLE, {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise RecipeError(file.path, (f"tool.{_TABLE}: {table!r}; expected a table",))
    return table
