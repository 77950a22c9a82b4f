"""What a user may say of the merged rank, before any adapter is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lego_ray.errors import InvalidOption
from lego_ray.planning.options import AUTO, DEFAULT_ERROR


def asked_rank(
    rank: int | str | None, rank_error: float | None = None, rank_budget: int | None = None
) -> dict[str, Any]:
    """The three options as a recipe has them.

    Args:
        rank: A whole number, `auto`, or None with a budget.
        rank_error: With `auto`, the largest relative error; None for the default.
        rank_budget: As many parameters as this rank has at every site, instead of a rank.

    Returns:
        `rank`, None where it is to be chosen, `rank_error` and `rank_budget`.

    Raises:
        InvalidOption: If none is given, or two that exclude each other.
    """
    if rank_budget is not None and rank is not None:
        raise InvalidOption(
            "--rank-budget", f"it takes the place of --rank {rank}", "Give one of the two."
        )
    if rank_error is not None and rank != AUTO:
        raise InvalidOption("--rank-error", "it goes with --rank auto alone")
    if rank is None and rank_budget is None:
        raise InvalidOption(
            "--rank", "no rank is given", "Give --rank K, --rank auto or --rank-budget K."
        )
    if rank == AUTO:
        return {"rank": None, "rank_error": DEFAULT_ERROR if rank_error is None else rank_error}
    return {"rank": rank, "rank_budget": rank_budget}


def asked_ranks(ranks: Sequence[int], others: Mapping[str, object]) -> tuple[int, ...]:
    """The ranks of merges that differ in nothing else, in the order given.

    Args:
        ranks: Whole numbers.
        others: `rank`, `rank_error` and `rank_budget`, where they are given too.

    Raises:
        InvalidOption: If there is none, one is given twice or out of its range, or a rank is also given
            in another way.
    """
    for name in ("rank", "rank_error", "rank_budget"):
        if others.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise InvalidOption(flag, "several ranks are given already", "Give one of the two.")
    found = tuple(ranks)
    if not found or not all(_is_rank(k) for k in found):
        said = f"{list(found)!r} are not whole numbers of at least 1"
        raise InvalidOption("--rank", said, "Write them as 8,16,32.")
    if twice := sorted({k for k in found if found.count(k) > 1}):
        raise InvalidOption("--rank", f"rank {twice[0]} is given twice", "Give each rank once.")
    return found


def name_at_rank(name: str, rank: int) -> str:
    """The name of the merge at one of several ranks.

    Args:
        name: What is given for all of them.
        rank: Its rank.
    """
    return f"{name}-rank-{rank}"


def folder_at_rank(rank: int) -> str:
    """Where the merge at one of several ranks goes, below what is given for all of them.

    Args:
        rank: Its rank.
    """
    return f"rank-{rank}"


def check_rank(
    rank: object, rank_error: object, rank_budget: object, ranks: Mapping[str, int]
) -> None:
    """Checks a recipe's ranks.

    Args:
        rank: k, or None.
        rank_error: Bound it is or was chosen by.
        rank_budget: Budget it is or was chosen by.
        ranks: k of sites, where they differ.

    Raises:
        InvalidOption: If one is out of its range, or nothing says how to choose.
    """
    if rank_error is not None and not (_is_number(rank_error) and 0 < rank_error < 1):  # type: ignore[operator]
        raise InvalidOption("--rank-error", f"{rank_error!r} is not a number above 0 and below 1")
    if rank_budget is not None and not _is_rank(rank_budget):
        raise InvalidOption(
            "--rank-budget",
            f"{rank_budget!r} is not a whole number of at least 1",
            "Every site takes a rank of 1.",
        )
    if rank_error is not None and rank_budget is not None:
        raise InvalidOption("--rank-budget", "a rank is chosen by it or by --rank-error")
    chosen_by = rank_error is not None or rank_budget is not None
    if not _is_rank(rank) and not (rank is None and chosen_by):
        raise InvalidOption("--rank", f"{rank!r} is not a whole number of at least 1, or auto")
    if not all(_is_rank(k) for k in ranks.values()):
        raise InvalidOption("ranks", f"{dict(ranks)!r} are not whole numbers of at least 1")
    if ranks and max(ranks.values()) != rank:
        raise InvalidOption("ranks", f"the largest is {max(ranks.values())}, and --rank is {rank}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
