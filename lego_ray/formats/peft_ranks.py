"""The rank that each pair of tensors of a PEFT file is stored at, and how its configuration says so."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_ray.formats.peft_parameters import Stored, ruled_by
from lego_ray.formats.peft_patterns import exact_key

_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True, slots=True)
class StoredRanks:
    """Ranks of a file.

    Attributes:
        r: The rank where no pattern says otherwise.
        by_name: The rank of each pair, by its module or parameter; of experts, that of each.
        patterns: Ranks of modules that have another than r, by pattern.
    """

    r: int
    by_name: Mapping[str, int]
    patterns: Mapping[str, int]


def shares_rank(module: str) -> bool:
    """Whether a module is one of numbered experts, which are stored at one rank.

    Args:
        module: Its path.
    """
    return _EXPERT.search(module) is not None


def stored_ranks(stored: Sequence[Stored], ranks: Mapping[str, int], rank: int) -> StoredRanks:
    """Chooses ranks that PEFT can be told of: the smallest that hold every site.

    PEFT 0.21 warns of a pattern that speaks for a parameter (`BaseTuner.inject_adapter` looks for it
    among modules alone), so parameters share the rank r. So do experts that are modules: transformers
    5 has those of a layer as one parameter, and PEFT makes its factors of theirs, each of rank r. The
    output projection of an `nn.MultiheadAttention` has the rank of its attention.

    Args:
        stored: Every pair of the file.
        ranks: The rank of each site, at least.
        rank: The adapter's; r, if it has no parameters.
    """
    ruled: dict[str, int] = defaultdict(int)
    for each in stored:
        owner = "" if shares_rank(each.name) or each.is_parameter else ruled_by(each.name)
        ruled[owner] = max(ruled[owner], *(min(rank, ranks[site]) for site in each.sites))
    r = ruled.pop("", rank)
    names = [each.name for each in stored]
    by_name = {
        each.name: r if shares_rank(each.name) or each.is_parameter else ruled[ruled_by(each.name)]
        for each in stored
    }
    patterns = {exact_key(owner, names): own for owner, own in ruled.items() if own != r}
    return StoredRanks(r, by_name, patterns)
