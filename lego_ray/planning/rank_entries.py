"""An entry of a recipe file with `ranks`, as one entry for each rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lego_ray.planning.rank_options import folder_at_rank, name_at_rank
from lego_ray.planning.recipe_form import MergeForm

# Settings of an entry that say its one rank.
RANKS = ("rank", "rank_error", "rank_budget")


def at_ranks(
    merge: MergeForm, settings: dict[str, Any], path: str, faults: list[str]
) -> Iterator[tuple[MergeForm, dict[str, Any]]]:
    """The merges of an entry: itself or, if it has `ranks`, one for each of them.

    A merge at rank K is called NAME-rank-K. It goes below the library's output by that name or, if the
    entry has an output, to `rank-K` below that.

    Args:
        merge: The entry.
        settings: What it is asked for, the defaults included; `ranks` is taken out.
        path: Where it is in the file, for faults.
        faults: Takes what is wrong with its ranks.
    """
    ranks = settings.pop("ranks", None)
    if ranks is None:
        yield merge, settings
        return
    if beside := [name for name in RANKS if name in settings]:
        faults.append(f"{path}.ranks: it takes the place of {beside[0]}; expected one of the two")
        return
    if merge.groups:
        faults.append(f"{path}.ranks: groups have one rank; write one entry for each rank instead")
        return
    for rank in ranks:
        name = name_at_rank(merge.name, rank)
        output = f"{merge.output.rstrip('/')}/{folder_at_rank(rank)}" if merge.output else None
        at_rank = merge.model_copy(update={"name": name, "output": output})
        yield at_rank, {**settings, "name": name, "rank": rank}
