"""What `verify` tells people of a merged adapter's distance from its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from lego_ray.cli.printing import named_below, percent, print_table, ratio

# Sources shown from either end, and sites.
SHOWN = 5


def print_errors(errors: Mapping[str, Any]) -> None:
    """Prints the figures overall, the sources kept least and most, and the sites furthest off."""
    reason = f"  ({errors['mean_reason']})" if errors["mean_reason"] else ""
    click.echo(
        f"relative error to the sum of the updates   {ratio(errors['relative_error_to_sum'])}\n"
        f"relative error to their weighted mean      "
        f"{ratio(errors['relative_error_to_mean'])}{reason}\n"
        f"norm, as a share of the sum's              {percent(errors['norm_ratio']) or '-'}\n"
        f"factor that brings it nearest to the sum   {ratio(errors['least_squares_scale'])}"
    )
    _print_sources(errors["sources"])
    _print_sites(errors["sites"])


def _print_sources(sources: Sequence[Mapping[str, Any]]) -> None:
    ordered = sorted(sources, key=lambda s: (s["share_kept"] is None, s["share_kept"] or 0.0))
    title = "share of each source's update that is kept"
    if len(ordered) > 2 * SHOWN:
        title += f": the {SHOWN} least and the {SHOWN} most of {len(ordered)}"
        known = [source for source in ordered if source["share_kept"] is not None]
        ordered = [*known[:SHOWN], *known[max(SHOWN, len(known) - SHOWN) :]]
    click.echo(f"\n{title}")
    names = named_below([s["adapter"] for s in ordered])
    print_table(
        ("source", "weight", "share kept", "cosine"),
        (
            (name, s["weight"], percent(s["share_kept"]), s["cosine"])
            for name, s in zip(names, ordered, strict=True)
        ),
    )


def _print_sites(sites: Sequence[Mapping[str, Any]]) -> None:
    ordered = sorted(sites, key=lambda s: -_number(s["relative_error_to_sum"]))[:SHOWN]
    more = f": the {SHOWN} furthest from the sum of {len(sites)}" if len(sites) > SHOWN else ""
    click.echo(f"\nsites{more}")
    print_table(
        ("site", "to the sum", "to the mean", "norm", "least kept"),
        (
            (
                s["site"],
                s["relative_error_to_sum"],
                s["relative_error_to_mean"],
                percent(s["norm_ratio"]),
                percent(min((k for k in s["share_kept"] if k is not None), default=None)),
            )
            for s in ordered
        ),
    )


def _number(value: float | None) -> float:
    return -1.0 if value is None else float(value)
