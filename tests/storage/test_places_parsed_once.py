"""A place is read out of text where the text comes in, and nowhere below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lego_ray

PACKAGE = Path(lego_ray.__file__).parent

# What makes a place, or a store, or something of it, out of text; `join` is that of `storage.uri`.
READERS = {
    *("parse_uri", "normalize_uri", "open_store", "join", "FileStore"),
    *("open_catalog", "place_or_none", "output_place"),
}

# The calls take text, and `storage` is where it is understood.
CALLS = ("api/", "storage/")

_CALL = "a call, which takes what the user gives"
_ROW = "a row of a catalog"

# File and function, and what text it is that is read there.
ALLOWED = {
    ("planning/arguments.py", "output_place"): "what a call is given, by the calls alone",
    ("planning/arguments.py", "place_or_none"): "what a call is given, by the calls alone",
    ("catalog/__init__.py", "_open"): _CALL,
    ("catalog/opening.py", "open_catalog"): "what a call of the rooms catalog and audit is given",
    ("catalog/opening.py", "check_outside_tables"): "a table's URI, made by the catalog",
    ("catalog/opening.py", "store_of"): "a catalog's URI, which is text for the Delta library",
    ("catalog/holders.py", "_resolve"): "a word of the user, which may be a URI, an id or a name",
    ("catalog/adapters.py", "adapter_places"): _ROW,
    ("sources/expand.py", "_plain"): "the name of a list of sources, from the user or another list",
    ("sources/expand.py", "places_of"): "sources, the user's words until they are scanned",
    (
        "sources/tags_table.py",
        "read_tagging",
    ): "the table of tags that a call or a recipe file names",
    ("cli/defaults.py", "without_default_catalog"): "the recipe file that a command is given",
    ("catalog/history.py", "output_of"): _ROW,
    ("audit/adopt.py", "adopt_merge"): _CALL,
    ("audit/check.py", "check_catalog"): _CALL,
    ("audit/repair.py", "repair_catalog"): _CALL,
    ("audit/collect.py", "collect_garbage"): _CALL,
    ("audit/collect.py", "_writable"): "the root that the call above is given",
    ("reporting/own_sources.py", "_is_near"): "a manifest, whose sources are data of a merge",
    ("library/places.py", "read_places"): "a recipe file",
    ("library/places.py", "places_to_refresh"): "a recipe file, or the call's words in their place",
    ("library/places.py", "_own"): "a recipe file",
    ("library/state.py", "state_of"): "the base model of a recipe, which is data of a plan",
    ("sources/find.py", "open_source"): "a source, the user's word until it is scanned",
    ("sources/recorded.py", "folder_of"): "a record of an adapter, which is data of a plan",
    ("sources/recorded.py", "place_of"): "a record of an adapter, which is data of a plan",
    ("planning/arguments.py", "recipe_of"): "the base model that a call is given",
    ("planning/recipe_file.py", "parse_recipe_file"): "a recipe file",
    ("planning/recipe_file.py", "LibraryRecipe.on_base"): "the base model that a call is given",
    (
        "sources/with_base.py",
        "WithBase.__init__",
    ): "the base model of a recipe, which is data of a plan",
    ("sources/confirm.py", "_files_of_base"): "the base model of a recipe, which is data of a plan",
    ("tasks/base_weights.py", "BaseWeights._read"): "a record of a weight, which is data of a plan",
    ("merging/updates/parent.py", "find_merged"): "a word of the user, or a row of a catalog",
}


def _names(node: ast.AST, within: str = "") -> Iterator[tuple[str, str]]:
    """Every name that is used below a node, and the function or method that it is used in."""
    for child in ast.iter_child_nodes(node):
        name = within
        if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            is_inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            name = within if is_inner else f"{within}.{child.name}".lstrip(".")
        if isinstance(child, ast.Name):
            yield child.id, name
        elif isinstance(child, ast.Attribute) and child.attr != "join":  # of a place, or of text
            yield child.attr, name
        yield from _names(child, name)


def readers_in(text: str) -> set[str]:
    """The functions of a module that read places out of text."""
    return {within for name, within in _names(ast.parse(text)) if name in READERS}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(uri):\n    return parse_uri(uri)", {"f"}),
        ("def f(uris):\n    return list(map(parse_uri, uris))", {"f"}),
        ("class C:\n    def f(self, uri):\n        return uris.parse_uri(uri)", {"C.f"}),
        ("def f(uri):\n    def g():\n        return open_store(uri)\n    return g", {"f"}),
        ("def f(uri):\n    return join(uri, 'key')", {"f"}),
        ("def f(place):\n    return place.join('key').open(), ', '.join('ab')", set()),
        ("STORE = open_store('/a')", {""}),
    ],
)
def test_what_reads_a_place_is_found(text: str, found: set[str]) -> None:
    assert readers_in(text) == found


def test_rooms_below_the_calls_take_places_and_read_none() -> None:
    found = {
        (key, within)
        for path in PACKAGE.rglob("*.py")
        if not (key := path.relative_to(PACKAGE).as_posix()).startswith(CALLS)
        for within in readers_in(path.read_text())
    }
    assert found - ALLOWED.keys() == set(), "take a Place, which the call has read already"
    assert ALLOWED.keys() - found == set(), "these read none any more: take them off the list"
