"""Progress on a terminal, with its rate and the time left; silence where stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lego_ray.amounts import size

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan
    from lego_ray.tasks.values import TaskResult

# Of a name; the rest of the line is needed for the rate and the time left, which come last.
NAME_COLUMNS = 20


class _Shown:
    """One bar at a time, closed at the end of the block."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def _start(self, name: str, total: int, unit: str) -> tqdm[Any]:
        if self._bar is not None:
            self._bar.close()
        if len(name) > NAME_COLUMNS:
            name = f"{name[: NAME_COLUMNS - 3]}..."
        # disable=None: none where the file is not a terminal.
        bar = tqdm(
            total=total, unit=unit, desc=name, file=sys.stderr, disable=None, dynamic_ncols=True
        )
        self._bar = bar
        return bar


class SiteProgress(_Shown):
    """Shows sites solved, sites a second, the time left, and bytes read, in all and a second."""

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    def __enter__(self) -> SiteProgress:
        return self

    def __call__(self, plan: Plan, result: TaskResult | None) -> None:
        """Takes a plan that starts (no result) or a task's result."""
        if result is None:
            # Perhaps after another plan: without a bad adapter, or of ranks now chosen.
            measured = ", measured" if plan.recipe.is_open else ""
            self._start(f"{plan.recipe.name}{measured}", plan.n_sites, "site")
            self._read = 0
        elif self._bar is not None and not self._bar.disable:
            self._read += result.bytes_read
            elapsed = self._bar.format_dict["elapsed"]
            rate = f", {size(self._read / elapsed)}/s" if self._read and elapsed else ""
            self._bar.set_postfix_str(f"{size(self._read)} read{rate}", refresh=False)
            if result.requests or result.seconds:
                self._bar.update(result.n_sites)
            else:
                _skip(self._bar, result.n_sites)


class CountProgress(_Shown):
    """Shows how many of some things are done, how many a second, and the time left."""

    def __init__(self, name: str, unit: str) -> None:
        super().__init__()
        self._name, self._unit = name, unit

    def __enter__(self) -> CountProgress:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Takes how many are done of how many."""
        bar = self._bar or self._start(self._name, total, self._unit)
        bar.update(done - bar.n)


def _skip(bar: tqdm[Any], kept: int) -> None:
    """Moves a bar over what an earlier run did: at once, which says nothing of how fast the rest is."""
    bar.initial += kept
    bar.n += kept
    bar.last_print_n = bar.n
    bar.refresh()
