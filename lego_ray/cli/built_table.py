"""What the commands that make several merges print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli.printing import (
    count,
    print_advice,
    print_all_refused,
    print_failed,
    print_library_counts,
    print_set_aside,
    print_table,
    print_warnings,
    ratio,
)


def print_built(record: Mapping[str, Any]) -> None:
    """Prints what became of the merges.

    Args:
        record: A `LibraryRecord`.
    """
    print_warnings(record["merges"])
    print_set_aside(record)
    print_all_refused(record)
    print_failed(record["failed"])
    print_table(
        ("merge", "adapters", "rank", "sites", "status", "output"),
        (
            (m["name"], len(m["adapters"]), m["rank"], m["sites"], m["status"], m["output"])
            for m in record["merges"]
        ),
    )
    for grouping in record["groups"]:
        _print_grouping(grouping)
    if record["dry_run"]:
        click.echo("dry run: nothing was written")
    click.echo(
        f"{count(len(record['merges']), 'merge')} of {count(record['counts']['usable'], 'adapter')}, "
        f"{size(record['bytes_read'])} read in {record['seconds']:.1f} s"
    )
    print_library_counts(record["counts"])
    click.echo(f"catalog  {record['catalog'] or '(none; give --catalog)'}")
    print_advice(record["merges"])


def _print_grouping(grouping: Mapping[str, Any]) -> None:
    groups, alone = grouping["groups"], grouping["alone"]
    adapters = sum(len(group["adapters"]) for group in groups) + len(alone)
    click.echo(
        f"groups   {grouping['name']}: {len(groups)} of {count(adapters, 'adapter')}, "
        f"{len(alone)} alone; silhouette {ratio(grouping['silhouette'])}"
    )
    for member in alone:
        near = member["nearest_group"]
        like = f", cosine {ratio(member['nearest_similarity'])} to {near}" if near else ""
        click.echo(f"alone    {member['adapter']}{like}")
