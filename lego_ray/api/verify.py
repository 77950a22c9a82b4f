"""Checks a merged adapter."""

from __future__ import annotations

from collections.abc import Sequence
from os import fspath
from typing import Any

from lego_ray.arguments import checked
from lego_ray.planning.arguments import Uri, parse_bytes, places
from lego_ray.planning.planner import DEFAULT_MEMORY_BUDGET
from lego_ray.sources.headers import Counted, untold
from lego_ray.verification.against_manifest import run_verify


@checked
def verify(
    merged: Uri,
    *,
    sources: Uri | Sequence[Uri] = (),
    memory_budget: int | str = DEFAULT_MEMORY_BUDGET,
    progress: Counted = untold,
) -> dict[str, Any]:
    """Checks a merged adapter: its files' hashes, that it loads, and how far it is from its sources.

    Args:
        merged: Where the merged adapter is.
        sources: The adapters it was made from, as for `merge`; without them the errors are not
            computed. Each must be unchanged.
        memory_budget: Most memory to take: bytes, or text such as `4GiB`. Sources of a site that do not
            fit are read block by block, several times if the budget is small.
        progress: Called with the number of sites compared with their sources, and of those there are.

    Returns:
        `merged`, `merge_id`, `ok`, `files`, `rank`, `sites`, `sources`, `warnings`, and `errors`, None
        without sources. With W the merged update and `w_t dW_t` the weighted ones of the sources,
        `errors` has:

        - `relative_error_to_sum`: `||W - S|| / ||S||` in Frobenius norms, `S = sum_t w_t dW_t`;
        - `relative_error_to_mean`: the same for `S / sum_t w_t`, the sum over the sources that have the
          site; None, and `mean_reason` says so, where a weight is negative;
        - `norm_ratio`: `||W|| / ||S||`;
        - `least_squares_scale`: `<W, S> / ||W||^2`, the factor on W that brings it nearest to S;
        - `norm`: `||W||`;
        - `sources`: for each its `adapter` (URI), `adapter_id`, `weight`, number of `sites`, `norm`
          `||dW_t||`, `share_kept` `<W, dW_t> / ||dW_t||^2` and `cosine` `<W, dW_t> / (||W|| ||dW_t||)`;
        - `sites`: for each its `site` and the first four figures, and `share_kept` and `cosine` as lists
          in the order of `sources`, None for a source without the site.

        All are exact to float64 rounding. A figure is None where what it is relative to is zero.

    Raises:
        InvalidOption: If the budget does not hold the merged adapter and one source at a site.
        VerificationFailed: If a file or a source is not what the manifest says.
        SourceChanged: If a file changes twice while it is read.
        ObjectNotFound: If there is no merged adapter there.
    """
    return run_verify(fspath(merged), places(sources), parse_bytes(memory_budget), progress)
