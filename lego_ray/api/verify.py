"""Checks a merged adapter."""

from __future__ import annotations

from collections.abc import Sequence

from lego_ray.arguments import checked
from lego_ray.planning.arguments import Uri, parse_bytes, sources_given
from lego_ray.planning.options import DEFAULT_MEMORY_BUDGET
from lego_ray.sources.headers import Counted, untold
from lego_ray.storage.uri import parse_uri
from lego_ray.verification.against_manifest import run_verify
from lego_ray.verification.record import Verification


@checked
def verify(
    merged: Uri,
    *,
    sources: Uri | Sequence[Uri] = (),
    base: Uri | None = None,
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    progress: Counted = untold,
) -> Verification:
    """Checks a merged adapter: its files' hashes, that it loads, and how far it is from its sources.

    Args:
        merged: Where the merged adapter is.
        sources: The adapters it was made from, as for `merge`; without them the errors are not
            computed. Each must be unchanged.
        base: Where the base model is now, for sources that were merged with it; in place of what the
            merge was made with.
        memory_budget: Most memory to take: bytes, or text such as `4GiB`. Sources of a site that do not
            fit are read block by block, several times if the budget is small.
        progress: Called with the number of sites compared with their sources, and of those there are.

    Returns:
        What was found; see `Verification`, which is read like a dictionary too.

    Raises:
        InvalidOption: If the budget does not hold the merged adapter and one source at a site.
        VerificationFailed: If a file or a source is not what the manifest says.
        SourceChanged: If a file changes twice while it is read.
        ObjectNotFound: If there is no merged adapter there.
    """
    budget = parse_bytes(memory_budget)
    place = "" if base is None else str(parse_uri(base))
    return run_verify(parse_uri(merged), sources_given(sources), budget, progress, place)
