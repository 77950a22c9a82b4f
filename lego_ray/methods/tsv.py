"""Task singular vectors, kept apart: TSV-Merge (arXiv 2412.00081) at rank k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import InvalidOption
from lego_ray.lazy import torch
from lego_ray.methods.parted import MergedRows, Parted
from lego_ray.numerics.decompositions.task_vectors import orthogonalised, shared_out_terms
from lego_ray.numerics.lineage import lineage_of_rows
from lego_ray.numerics.shards.spread import SpreadPool


def check_a_term_each(method: str, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
    """Refuses a merged rank below the number of adapters, of a method that keeps a term of each.

    Args:
        method: Its name.
        ranks: By site, the rank of each adapter there.
        rank: k.

    Raises:
        InvalidOption: If an adapter would have none.
    """
    site = max(ranks, key=lambda name: len(ranks[name]))
    needed = len(ranks[site])
    if rank < needed:
        raise InvalidOption(
            "--rank",
            f"{rank} is below the {needed} adapters at {site}, and the {method} method keeps a term of "
            "each",
            f"Give --rank {needed} or more, or use svd.",
        )


@dataclass(frozen=True, slots=True)
class Tsv(Parted):
    """`sum_t U_t S_t V_t^T` of each adapter's first k/T singular terms, with all U and V orthogonal.

    The paper keeps a T-th of the full rank of each of T tasks; here it is a T-th of k, so that the
    merged update has rank k and its singular values are those of the adapters. One adapter at its own
    rank comes back.
    """

    @property
    def name(self) -> str:
        """`tsv`."""
        return "tsv"

    def check_ranks(self, ranks: Mapping[str, Sequence[int]], rank: int) -> None:
        """Each adapter has a merged rank of its own."""
        check_a_term_each(self.name, ranks, rank)

    def merged_rows(self, pool: SpreadPool, rank: int, generator: torch.Generator) -> MergedRows:
        """The terms; see `Parted.merged_rows`.

        Each is made of one adapter's MSUs, in the shares that they have in its singular term: making
        terms orthogonal turns them as a whole.
        """
        terms, owners = shared_out_terms(pool, rank)
        if not len(terms):  # no adapter was ever trained
            return MergedRows(torch.zeros(1, pool.width, dtype=torch.float64))
        lineage = lineage_of_rows(pool, terms, owners)
        return MergedRows(orthogonalised(terms, pool.d_in), lineage)
