"""What `compare` prints of several merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from lego_ray.cli.printing import percent, print_table, visible

# Adapters that are listed: those whose shares differ most between the merges.
SHOWN = 10


def print_comparison(record: Mapping[str, Any]) -> None:
    """Prints the merges, what differs in their recipes, their cosines, and what they keep.

    Args:
        record: A `MergeComparison`.
    """
    merges = record["merges"]
    print_table(
        (
            *("merge", "preset", "method", "rank", "adapters", "sites"),
            *("norm", "to the sum", "to the mean", "of the sum's norm"),
        ),
        (
            (
                *(m["label"], m["preset"], m["method"], m["rank"], m["adapters"], m["sites"]),
                *(m["norm"], m["relative_error_to_sum"], m["relative_error_to_mean"]),
                percent(m["norm_ratio"]),
            )
            for m in merges
        ),
    )
    labels = [merge["label"] for merge in merges]
    if record["differences"]:
        click.echo("\nwhat differs in the recipes")
        print_table(("setting", *labels), ((name, *v) for name, v in record["differences"].items()))
    else:
        click.echo("\nthe recipes do not differ")
    _print_scores(merges, labels)
    _print_pairs(record["pairs"])
    _print_kept(merges, labels)


def _print_scores(merges: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    if all(merge["score"] is None for merge in merges):
        return
    tasks = dict.fromkeys(name for merge in merges for name in merge["task_scores"] or ())
    rows = [("score", *(merge["score"] for merge in merges))]
    rows += [
        (name, *((merge["task_scores"] or {}).get(name) for merge in merges)) for name in tasks
    ]
    click.echo("\nscores")
    print_table(("task", *labels), rows)


def _print_pairs(pairs: Sequence[Mapping[str, Any]]) -> None:
    click.echo("\ncosine of the merged updates")
    print_table(
        ("merge", "and", "cosine", "sites of both", "adapters of both"),
        ((p["first"], p["second"], p["cosine"], p["sites"], p["adapters"]) for p in pairs),
    )
    for pair in pairs:
        for of, other, names in (
            (pair["first"], pair["second"], pair["only_first"]),
            (pair["second"], pair["first"], pair["only_second"]),
        ):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                click.echo(
                    f"in {visible(of)} and not in {visible(other)}: {visible(names[0])}{more}"
                )


def _print_kept(merges: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    shares: dict[str, list[float | None]] = {}
    for number, merge in enumerate(merges):
        for source in merge["kept"] or ():
            row = shares.setdefault(source["adapter"], [None] * len(merges))
            row[number] = source["share_kept"]
    if not shares:
        return
    rows = sorted(shares.items(), key=lambda row: (-_spread(row[1]), row[0]))
    more = f": the {SHOWN} of {len(rows)} that differ most" if len(rows) > SHOWN else ""
    click.echo(f"\nshare of each adapter's update that is kept{more}")
    print_table(
        ("adapter", *labels), ((name, *map(percent, found)) for name, found in rows[:SHOWN])
    )


def _spread(shares: Sequence[float | None]) -> float:
    """How far the largest share of an adapter is from the smallest."""
    known = [share for share in shares if share is not None]
    return max(known) - min(known) if known else 0.0
