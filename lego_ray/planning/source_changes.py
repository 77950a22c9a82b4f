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
# And if the files turned out to hold the same bytes: a `touch`, a copy put in place. Tools that sync a
# folder do that once or twice, and something that never stops is worth an error.
MOST_OF_ALL = 5


def ending(
    error: SourceChanged, earlier: tuple[SourceChanged, ...], *, strict: bool, same: int = 0
) -> SourceChanged | None:
    """The error that ends a run when a file changed, or None if the run starts over.

    Args:
        error: The change.
        earlier: Changes that the run started over for.
        strict: Whether `--strict` was given.
        same: How many of those left the adapter's content as it was.
    """
    if strict:
        return SourceChanged(
            error.where,
            f"{error.problem}, and --strict was given",
            "Run it again once nothing writes to the adapter any more; without --strict, the adapter "
            "is scanned again once.",
            error.adapter,
        )
    if len(earlier) - same < MOST and len(earlier) < MOST_OF_ALL:
        return None
    files = ", ".join(dict.fromkeys(change.where for change in earlier))
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    return SourceChanged(
        error.where,
        f"{error.problem}; the run had started over {times}, because {files} had changed",
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
        found: The `adapter_id` that this try first found at each URI. It may look more than once.
        before: The `adapter_id` that the adapter of the last change had before it, if that is known.
        same: How many of the changes left the adapter's content as it was.
        is_same: Whether the last one did, as far as was looked; not counted in `same`.
    """

    strict: bool = False
    changes: tuple[SourceChanged, ...] = ()
    given_up: set[str] = field(default_factory=set)
    bytes_read: int = 0
    known: set[str] = field(default_factory=set)
    found: dict[str, str] = field(default_factory=dict)
    before: str | None = None
    same: int = 0
    is_same: bool = False

    @property
    def is_again(self) -> bool:
        """Whether there were tries before."""
        return bool(self.changes)

    def after(self, error: SourceChanged) -> Attempt:
        """The next try.

        Raises:
            SourceChanged: If there is none.
        """
        if last := self._ending(error):
            raise last from error
        return replace(
            self,
            changes=(*self.changes, error),
            found={},
            before=self.found.get(error.adapter),
            same=self.same + self.is_same,
            is_same=False,
        )

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether the run starts over after an error."""
        return isinstance(error, SourceChanged) and self._ending(error) is None

    def _ending(self, error: SourceChanged) -> SourceChanged | None:
        same = self.same + self.is_same
        return ending(error, self.changes, strict=self.strict, same=same)

    def with_gone(self, inventory: Inventory) -> Inventory:
        """What a scan found now, and adapters that a try before found and that are gone, as refused.

        It is noted too whether the last change was one of content: `is_same`.

        Args:
            inventory: What was found now.
        """
        ids = {adapter.uri: adapter.adapter_id for adapter in inventory.adapters}
        self.found = ids | self.found
        now = set(ids)
        if not self.is_again:
            self.known = now
            return inventory
        self.is_same = self.before is not None and ids.get(self.changes[-1].adapter) == self.before
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
