"""One merge of a catalog as people read it: `lego-ray catalog show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from lego_ray.amounts import size
from lego_ray.cli.printing import print_fields, print_table, ratio
from lego_ray.methods.names import MethodOptions
from lego_ray.options import keywords_of, renamed

if TYPE_CHECKING:
    from lego_ray.catalog.history import MergeDetail


def print_merge(detail: MergeDetail) -> None:
    """Prints what a merge is: its facts, its recipe, and where the time went.

    Args:
        detail: The merge.
    """
    print_fields({name: said for name, said in _facts(detail) if said not in (None, "")})
    click.echo()
    print_table(("recipe", "value"), list(_settings(detail.merge["recipe"])), wrap=True)
    stages = detail.merge["stages"] or ()
    if stages:
        click.echo()
        print_table(
            ("stage", "seconds", "read"),
            [(each["stage"], round(each["seconds"], 3), size(each["bytes"])) for each in stages],
        )


def _facts(detail: MergeDetail) -> Iterator[tuple[str, Any]]:
    merge, summary = detail.merge, detail.summary()
    yield "name", merge["name"]
    yield "version", merge["version"]
    yield "merge_id", merge["merge_id"]
    yield "updates", merge["parent_id"]
    yield "status", merge["status"]
    yield "published", merge["created_at"]
    yield "took", f"{merge['seconds']:.1f} s"
    yield "output", merge["output_uri"]
    yield "adapter_id of it", merge["output_adapter_id"]
    yield "sha256 of weights", merge["content_hash"]
    yield "adapters", f"{len(merge['adapter_ids']):,}"
    yield "sites", f"{merge['n_sites'] or summary['sites']:,}"
    if (msus := merge["n_msus"] or summary["msus"]) is not None:
        yield "MSUs", f"{msus:,}"
    yield "method", merge["method"]
    yield "rank", merge["rank"]
    yield "seed", merge["seed"]
    if summary["relative_error_mean"] is not None:
        worst = ratio(summary["relative_error_max"])
        yield (
            "relative error",
            f"{ratio(summary['relative_error_mean'])} on average, {worst} at worst",
        )
    if summary["norm_ratio_mean"] is not None:
        yield "norm", f"{ratio(summary['norm_ratio_mean'])} of the sum's on average"
    yield "inertia", summary["inertia"]
    yield "drift", merge["drift"]
    yield "licenses", ", ".join(merge["licenses"] or ())
    yield "to check", "; ".join(merge["license_conflicts"] or ())
    yield "made with", ", ".join(f"{name} {of}" for name, of in sorted(merge["versions"].items()))


def _settings(recipe: str) -> Iterator[tuple[str, str]]:
    """What a recipe says, a setting a row, without those that are empty."""
    try:
        found = json.loads(recipe)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        yield "(not JSON)", recipe
        return
    for name, value in sorted(found.items()):
        if isinstance(value, Mapping):
            named = renamed(keywords_of(MethodOptions), value) if name == "options" else value
            yield from ((f"{name}.{key}", _said(each)) for key, each in sorted(named.items()))
        elif value not in (None, "", []):
            yield name, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
