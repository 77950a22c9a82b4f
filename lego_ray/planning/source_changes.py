"""What follows when a file of an adapter changes while a run is at it: decided here and nowhere else.

The run ends, or it starts over: everything is scanned again, the plan is made again, and of the results
of the try before only those go into it that are shown to be of the same bytes. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lego_ray.errors import SourceChanged
from lego_ray.formats.record import Refused
from lego_ray.planning.inventory import Inventory

# Times that a run starts over. A file that is replaced once is common, such as a training run that ends;
# a zoo that goes on changing would be merged from moments that no one chose.
MOST = 1


def ending(
    error: SourceChanged, earlier: tuple[SourceChanged, ...], *, strict: bool
) -> SourceChanged | None:
    """The error that ends a run when a file changed, or None if the run starts over.

    Args:
        error: The change.
        earlier: Changes that the run started over for.
        strict: Whether `--strict` was given.
    """
    if strict:
        return SourceChanged(
            error.where,
            f"{error.problem}, and --strict was given",
            "Run it again once nothing writes to the adapter any more; without --strict, the adapter "
            "is scanned again once.",
            error.adapter,
        )
    if len(earlier) < MOST:
        return None
    return SourceChanged(
        error.where,
        f"{error.problem}; the run had started over once, because {earlier[0].where} had changed",
        error.hint,
        error.adapter,
    )


def warning(error: SourceChanged) -> str:
    """The warning about a change that a run started over for."""
    return (
        f"{error.what} The sources were scanned again and the plan was made again; nothing that was "
        "read before is in the merge"
    )


@dataclass(slots=True)
class Attempt:
    """One try of a run, and what the tries before it left.

    Attributes:
        strict: Whether `--strict` was given.
        changes: What changed in the tries before.
        given_up: Digests of the plans that the tries had begun.
        bytes_read: Bytes that the tries before read.
        known: URIs of the adapters that the tries found.
    """

    strict: bool = False
    changes: tuple[SourceChanged, ...] = ()
    given_up: set[str] = field(default_factory=set)
    bytes_read: int = 0
    known: set[str] = field(default_factory=set)

    @property
    def is_again(self) -> bool:
        """Whether there were tries before."""
        return bool(self.changes)

    def after(self, error: SourceChanged) -> Attempt:
        """The next try.

        Raises:
            SourceChanged: If there is none.
        """
        if last := ending(error, self.changes, strict=self.strict):
            raise last from error
        return replace(self, changes=(*self.changes, error))

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether the run starts over after an error."""
        return (
            isinstance(error, SourceChanged)
            and ending(error, self.changes, strict=self.strict) is None
        )

    def with_gone(self, inventory: Inventory) -> Inventory:
        """What a scan found now, and adapters that a try before found and that are gone, as refused.

        Args:
            inventory: What was found now.
        """
        now = {adapter.uri for adapter in inventory.adapters}
        if not self.is_again:
            self.known = now
            return inventory
        here = {a.uri for a in inventory.adapters} | {r.uri for r in inventory.refused}
        gone = [
            Refused(
                uri,
                "refused",
                f"SourceChanged: {uri}: it was there when the run began and is gone. "
                f"{SourceChanged.advice}",
            )
            for uri in sorted(self.known - here)
        ]
        self.known |= now
        if not gone:
            return inventory
        refused = Inventory.of((), (*inventory.refused, *gone)).refused
        return replace(inventory, refused=refused)
