"""Progress of calls as a bar, one at a time: in a notebook, or wherever the caller is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lego_ray.amounts import size

if TYPE_CHECKING:
    from tqdm import tqdm

    from lego_ray.planning.plan import Plan
    from lego_ray.tasks.values import TaskResult

# Of a name; the rest of the line is needed for the rate and the time left, which come last.
NAME_COLUMNS = 20
# The unit of things that have no name, as tqdm calls them.
NO_UNIT = "it"


class ProgressBar:
    """Shows how far a call is, its rate and the time left: give it to a call as `progress`.

    In Jupyter it is a widget if ipywidgets is installed, and text elsewhere. It can be given to every
    call that has `progress`, and to one after another:

        bar = lego_ray.ProgressBar()
        lego_ray.scan("adapters", progress=bar)
        lego_ray.merge("adapters", rank=8, output="merged", progress=bar)

    A bar is closed when all is done, and at the end of a `with` block.

    Attributes:
        name: What a call that counts is called, such as `scan`; merges have their own names.
        unit: What such a call counts; without it no rate is shown.
    """

    def __init__(self, name: str = "", unit: str = NO_UNIT) -> None:
        """Makes a bar that shows nothing yet.

        Args:
            name: As the attribute.
            unit: As the attribute.
        """
        self.name, self.unit = name, unit
        self._bar: tqdm[Any] | None = None
        self._read = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it is; the next call starts another."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def __call__(self, done: Plan | int, total: TaskResult | int | None) -> None:
        """Takes how many are done of how many; or a plan that starts (no result), or a task's result."""
        if isinstance(done, int):
            self._count(done, total)  # type: ignore[arg-type]
        else:
            self._sites(done, total)  # type: ignore[arg-type]
        bar = self._bar
        if bar is not None and bar.total is not None and bar.n >= bar.total > 0:
            self.close()

    def _count(self, done: int, total: int) -> None:
        bar = self._bar or self._start(self.name, total, self.unit)
        bar.update(done - bar.n)

    def _sites(self, plan: Plan, result: TaskResult | None) -> None:
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

    def _start(self, name: str, total: int, unit: str) -> tqdm[Any]:
        self.close()
        if len(name) > NAME_COLUMNS:
            name = f"{name[: NAME_COLUMNS - 3]}..."
        self._bar = self._new(total=total, unit=unit, desc=name)
        return self._bar

    def _new(self, **shown: Any) -> tqdm[Any]:
        import warnings

        with warnings.catch_warnings():
            # A notebook without ipywidgets; it gets text, which needs no advice.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from tqdm.auto import tqdm

            if shown.get("unit") == NO_UNIT:
                shown["bar_format"] = _NO_RATE
            return tqdm(**shown)


# As tqdm has it, without a rate: of things that have no name it says nothing.
_NO_RATE = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def _skip(bar: tqdm[Any], kept: int) -> None:
    """Moves a bar over what an earlier run did: at once, which says nothing of how fast the rest is."""
    bar.initial += kept
    bar.n += kept
    bar.last_print_n = bar.n
    bar.refresh()
