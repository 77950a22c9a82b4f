"""A merge that a command is about: by its place, or by its name or id in a catalog."""

from __future__ import annotations

import os

import click

from lego_ray.cli.options import catalog_option
from lego_ray.cli.param_types import Place

merged = click.argument("merged", metavar="MERGED", type=Place())
catalog = catalog_option(
    "Catalog to look the merge up in, by its name or the first digits of its id."
)


def place_of(merged: str, catalog: str | None) -> str:
    """Where a merge is.

    Args:
        merged: A path or URI; or its name or the first digits of its merge_id, if no such path exists.
        catalog: The catalog to look it up in; None for none.

    Raises:
        InvalidOption: If no merge of the catalog is meant, or several are.
        CatalogNotFound: If nothing was merged into the catalog yet.
    """
    if catalog is None or "/" in merged or os.path.lexists(merged):
        return merged
    from lego_ray import catalog as calls
    from lego_ray.catalog.history import find_merge

    return str(find_merge(calls.list_merges(catalog).to_pylist(), merged)["output_uri"])
