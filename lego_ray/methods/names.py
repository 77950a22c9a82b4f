"""The merge methods by name, with their options. Loads no torch; a method is imported when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from lego_ray.options import Keyword, Option, keywords_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DISTANCES = ("euclidean", "rank-one")
BASES = ("raw", "svd")
PARAMETER_NORMS = ("inf", "l2", "none")
ELECTIONS = ("total", "frequency")
INNERS = ("sum", "ties", "dare_ties")
# A rule that goes by how far adapters differ, for the norm of a merge and for its spectrum.
ADAPTIVE = "adaptive"
SCALE_RULES = ("source-norm", "sum-fit", ADAPTIVE)


class MethodOptions(TypedDict, total=False):
    """The options of the methods. One left out has the method's own default; see `METHODS`."""

    density: Annotated[
        float | None,
        Option(
            "Share of each adapter's entries to keep.",
            default=0.2,
            metavar="D",
            above=0,
            at_most=1,
        ),
    ]
    election: Annotated[
        str | None,
        Option(
            "How an entry's sign is elected: by the total of the adapters' values, or by the "
            "frequency of each sign.",
            default="total",
            choices=ELECTIONS,
        ),
    ]
    inner: Annotated[
        str,
        Option("How adapters are merged in the bases they share.", default="ties", choices=INNERS),
    ]
    dare_density: Annotated[
        float | None,
        Option(
            "With --inner dare_ties: share of entries that the random drop keeps.",
            default=0.95,
            metavar="D",
            above=0,
            at_most=1,
        ),
    ]
    common_share: Annotated[
        float,
        Option(
            "Share of the rank for directions of the sum; the rest is shared out among the adapters.",
            default=0.8,
            metavar="S",
            at_least=0,
            at_most=1,
        ),
    ]
    beta: Annotated[
        float,
        Option(
            "How far adapters' norms count when the shared directions are chosen: 1, as they are; 0, "
            "all alike.",
            default=0.0,
            metavar="B",
            at_least=0,
            at_most=1,
        ),
    ]
    n_init: Annotated[
        int,
        Option(
            "Restarts of k-means; the one of least inertia is kept.",
            default=10,
            metavar="N",
            at_least=1,
            at_most=1_000_000,
        ),
    ]
    max_iter: Annotated[
        int, Option("Most steps of a restart.", default=300, metavar="N", at_least=1)
    ]
    tol: Annotated[
        float,
        Option(
            "Relative gain in inertia at which a restart stops.",
            default=1e-6,
            metavar="T",
            at_least=0,
            below=1,
        ),
    ]
    normalize: Annotated[
        bool,
        Option("Cluster [a/|a| ; b/|b|] instead of [a ; b].", default=False, former="normalise"),
    ]
    parameter_reweight: Annotated[
        str,
        Option(
            "Norm to restore to centroids from their members.",
            default="inf",
            choices=PARAMETER_NORMS,
        ),
    ]
    output_reweight: Annotated[
        float | str,
        Option(
            "Scale of the merged update: sqrt(r/k), sqrt(n/k), 1, or a number.",
            default="source-rank",
            words=("source-rank", "pool", "none"),
        ),
    ]
    distance: Annotated[
        str,
        Option(
            "What is clustered: MSUs as vectors, or the updates b a^T.",
            default="euclidean",
            choices=DISTANCES,
        ),
    ]
    basis: Annotated[
        str,
        Option(
            "Cluster ranks as trained, or in each adapter's singular basis.",
            default="raw",
            choices=BASES,
        ),
    ]
    balance: Annotated[bool, Option("Rescale each MSU so that |a| = |b|.", default=False)]
    align_signs: Annotated[
        bool, Option("Flip MSUs so that the largest entry of a is positive.", default=False)
    ]


@dataclass(frozen=True, slots=True)
class MethodName:
    """A merge method, before it is imported.

    Attributes:
        home: Its module and class.
        summary: What it makes of the adapters, in a few words.
        ranks: The merged ranks that it takes.
        options: Its options with its defaults; None where the default depends on another option.
    """

    home: str
    summary: str
    ranks: str = "any"
    options: Mapping[str, Any] = field(default_factory=dict)


_BY_RANK = "at least the largest of the adapters"
_INNER = {"inner": "ties", "density": None, "election": None, "dare_density": None}

METHODS: Mapping[str, MethodName] = {
    "lego": MethodName(
        "lego_ray.methods.lego:Lego",
        "the centroids of clusters of MSUs; the default",
        options={
            "n_init": 10,
            "max_iter": 300,
            "tol": 1e-6,
            "distance": "euclidean",
            "normalize": False,
            "basis": "raw",
            "balance": False,
            "align_signs": False,
            "parameter_reweight": "inf",
            "output_reweight": "source-rank",
        },
    ),
    "concat": MethodName(
        "lego_ray.methods.concat:Concat",
        "all MSUs side by side: the exact sum",
        "at least the sum of the adapters' ranks",
    ),
    "linear": MethodName(
        "lego_ray.methods.linear:Linear", "the sum of the As and the sum of the Bs", _BY_RANK
    ),
    "svd": MethodName(
        "lego_ray.methods.svd:Svd", "the nearest adapter to the sum, without a dense matrix"
    ),
    "ties": MethodName(
        "lego_ray.methods.ties:Ties",
        "the As and the Bs, entry by entry: the largest are kept, the mean of one sign taken (TIES)",
        _BY_RANK,
        {"density": 0.2, "election": "total"},
    ),
    "dare_linear": MethodName(
        "lego_ray.methods.dare_linear:DareLinear",
        "the sums of As and of Bs whose entries are dropped at random (DARE)",
        _BY_RANK,
        {"density": 0.5},
    ),
    "dare_ties": MethodName(
        "lego_ray.methods.dare_ties:DareTies",
        "the As and the Bs with entries dropped at random, the mean of one sign taken",
        _BY_RANK,
        {"density": 0.5, "election": "total"},
    ),
    "magnitude_prune": MethodName(
        "lego_ray.methods.magnitude_prune:MagnitudePrune",
        "the sums of As and of Bs whose smallest entries are dropped",
        _BY_RANK,
        {"density": 0.5},
    ),
    "tsv": MethodName(
        "lego_ray.methods.tsv:Tsv",
        "each adapter's first singular terms, made orthogonal (TSV-Merge)",
        "at least the number of adapters",
    ),
    "iso": MethodName(
        "lego_ray.methods.iso:Iso",
        "the directions of the nearest adapter to the sum, all equally strong (Iso-C)",
    ),
    "iso_cts": MethodName(
        "lego_ray.methods.iso_cts:IsoCts",
        "directions of the sum and of each adapter beside it, all equally strong (Iso-CTS)",
        options={"common_share": 0.8},
    ),
    "output_metric": MethodName(
        "lego_ray.methods.output_metric:OutputMetric",
        "the update nearest to all adapters, each measured by the outputs that it changes",
    ),
    "input_metric": MethodName(
        "lego_ray.methods.input_metric:InputMetric",
        "the same by the inputs that each reads: the closed form of ACE-Merging",
    ),
    "swudi": MethodName(
        "lego_ray.methods.swudi:Swudi",
        "the update that interferes least with what each adapter does to its own inputs (SWUDI)",
    ),
    "dc_merge": MethodName(
        "lego_ray.methods.dc_merge:DcMerge",
        "each adapter's first singular terms, equally strong, merged entry by entry (DC-Merge)",
        "at least the number of adapters",
    ),
    "core_space": MethodName(
        "lego_ray.methods.core_space:CoreSpace",
        "TIES, DARE-TIES or a sum of the updates in bases that they share (Core Space)",
        options=_INNER,
    ),
    "knots": MethodName(
        "lego_ray.methods.knots:Knots",
        "TIES, DARE-TIES or a sum of the updates in one basis of their columns (KnOTS)",
        options=_INNER,
    ),
    "ctm": MethodName(
        "lego_ray.methods.ctm:Ctm",
        "the same in the k directions that they share best, so that nothing is cut off after "
        "(Compress-then-Merge)",
        options={**_INNER, "beta": 0.0},
    ),
}
DEFAULT_METHOD = "lego"


def takers(option: str) -> tuple[str, ...]:
    """Names of the methods that have an option."""
    return tuple(name for name, method in METHODS.items() if option in method.options)


def as_recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under the names that recipes are recorded with, which never change.

    Args:
        options: A method's options by keyword.
    """
    known = keywords_of(MethodOptions)
    return {known[name].option.former or name: value for name, value in options.items()}


def check_options(made: DataclassInstance) -> None:
    """Holds the options of a method against their choices and bounds.

    Args:
        made: A method; options that are None are left to it.

    Raises:
        InvalidOption: If one does not fit.
    """
    for each in fields(made):
        keyword(each.name).check(getattr(made, each.name))


def keyword(option: str) -> Keyword:
    """An option of a method with its name and type."""
    return keywords_of(MethodOptions)[option]
