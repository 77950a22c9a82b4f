"""Flags of the merge methods, declared once; one left out keeps the method's own default."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.cli.options import Command, all_of
from lego_ray.cli.param_types import NumberOr, OneOf

# Written out here for the reason that `options.METHODS` is.
DISTANCES = ("euclidean", "rank-one")
BASES = ("raw", "svd")
PARAMETER_NORMS = ("inf", "l2", "none")
ELECTIONS = ("total", "frequency")
INNERS = ("sum", "ties", "dare_ties")


def method(command: Command) -> Command:
    """Options of the methods; one left out keeps the method's default, one it has not is refused."""
    return all_of(
        click.option(
            "--density",
            type=float,
            metavar="D",
            help="ties, ctm, knots, core_space, dare_*, magnitude_prune: share of entries that stay. "
            "[default: 0.5 for dare_* and magnitude_prune, else 0.2]",
        ),
        click.option(
            "--election",
            type=OneOf(ELECTIONS),
            help="ties, ctm, knots, core_space, dare_ties: an entry's sign by total or by frequency. "
            "[default: total]",
        ),
        click.option(
            "--inner",
            type=OneOf(INNERS),
            help="ctm, knots, core_space: how adapters are merged in the bases they share. "
            "[default: ties]",
        ),
        click.option(
            "--dare-density",
            type=float,
            metavar="D",
            help="With --inner dare_ties: share of entries that the random draw leaves. "
            "[default: 0.95]",
        ),
        click.option(
            "--beta",
            type=float,
            metavar="B",
            help="ctm: how far adapters' norms count when directions are chosen: 1, as they are; 0, "
            "all alike. [default: 0]",
        ),
        click.option("--n-init", type=int, metavar="N", help="Restarts of k-means. [default: 10]"),
        click.option(
            "--max-iter", type=int, metavar="N", help="Most steps of a restart. [default: 300]"
        ),
        click.option(
            "--tol",
            type=float,
            metavar="T",
            help="Relative gain in inertia at which a restart stops. [default: 1e-6]",
        ),
        click.option(
            "--normalise/--no-normalise",
            default=None,
            help="Cluster [a/|a| ; b/|b|] instead of [a ; b]. [default: no]",
        ),
        click.option(
            "--parameter-reweight",
            type=OneOf(PARAMETER_NORMS),
            help="Norm that centroids get back from their members. [default: inf]",
        ),
        click.option(
            "--output-reweight",
            type=NumberOr("source-rank", "pool", "none"),
            help="Scale of the merged update: sqrt(r/k), sqrt(n/k), 1, or a number. "
            "[default: source-rank]",
        ),
        click.option(
            "--distance",
            type=OneOf(DISTANCES),
            help="What is clustered: MSUs as vectors, or the updates b a^T. [default: euclidean]",
        ),
        click.option(
            "--basis",
            type=OneOf(BASES),
            help="Ranks as trained, or each adapter's singular basis. [default: raw]",
        ),
        click.option(
            "--balance/--no-balance",
            default=None,
            help="Rescale each MSU so that |a| = |b|. [default: no]",
        ),
        click.option(
            "--align-signs/--no-align-signs",
            default=None,
            help="Flip MSUs so that the largest entry of a is positive. [default: no]",
        ),
    )(command)


METHOD_OPTIONS = (
    "density",
    "election",
    "inner",
    "dare_density",
    "beta",
    "n_init",
    "max_iter",
    "tol",
    "normalise",
    "parameter_reweight",
    "output_reweight",
    "distance",
    "basis",
    "balance",
    "align_signs",
)


def taken(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the method's options that were given out of a command's arguments."""
    found = {name: given.pop(name) for name in METHOD_OPTIONS}
    return {name: value for name, value in found.items() if value is not None}
