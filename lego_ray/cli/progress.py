"""A progress bar of sites on a terminal; silence elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from lego_ray.cli.printing import size
from lego_ray.execution.task import GroupResult
from lego_ray.planning.plan import Plan


class SiteProgress:
    """Shows sites solved and bytes read, on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._read = 0

    def __enter__(self) -> SiteProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, plan: Plan, result: GroupResult | None) -> None:
        """Takes a plan that starts (no result) or a task's result."""
        if result is None:
            if self._bar is not None:  # another plan: without a bad adapter, or of ranks now chosen
                self._bar.close()
            self._bar = tqdm(
                total=plan.n_sites,
                unit="site",
                desc=f"{plan.recipe.name}, measured" if plan.recipe.is_open else plan.recipe.name,
                file=sys.stderr,
                disable=None,
                dynamic_ncols=True,
            )
            self._read = 0
        elif self._bar is not None:
            self._read += result.bytes_read
            self._bar.update(result.n_sites)
            self._bar.set_postfix_str(f"{size(self._read)} read", refresh=False)
