"""How long a run waits for a cluster, and what it says meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lego_ray import journal
from lego_ray.errors import ClusterTooSmall
from lego_ray.runners.ray.placement import is_created, state_of
from lego_ray.runners.ray.room import Bundle, has, held_by_others, is_hopeless, lacks, needs

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

# A node of a cloud takes minutes to come: it is bought, boots, and fetches an image.
WAIT_SECONDS = 900.0
FIRST_NOTE_SECONDS = 10.0
# Each interval between two notes is this much longer than the one before.
_GROWTH = 2.0


class Wait:
    """The time since a run last moved: says what it waits for, and gives up in the end."""

    def __init__(self, seconds: float | None, *, joined: bool) -> None:
        """Begins to count.

        Args:
            seconds: Longest wait for a cluster that cannot hold what waits; None for the default.
            joined: Whether the cluster may get more nodes; one that this process started does not.
        """
        self._seconds = (WAIT_SECONDS if seconds is None else seconds) if joined else 0.0
        self.moved()

    def moved(self) -> None:
        """Counts from now: something was done."""
        self._since = time.monotonic()
        self._next_note = FIRST_NOTE_SECONDS
        self._lacking: float | None = None

    def look(
        self,
        what: str,
        plan: str,
        bundles: Sequence[Bundle],
        group: PlacementGroup | None = None,
    ) -> None:
        """Says what is waited for, if it is time to.

        Args:
            what: The task or site that waits.
            plan: Digest of its plan.
            bundles: What it needs at once.
            group: The placement group that it waits for or is bound to, if there is one.

        Raises:
            ClusterTooSmall: If the cluster could not hold it for as long as this waits, or its
                autoscaler has no node type that could.
        """
        now = time.monotonic()
        lacking = lacks(bundles)
        self._lacking = (now if self._lacking is None else self._lacking) if lacking else None
        if self._lacking is not None and lacking:
            waited = now - self._lacking
            largest = max(bundles, key=lambda b: b["memory"])
            hopeless = self._seconds > 0 and is_hopeless(largest)
            if hopeless or waited >= self._seconds:
                if said := state_of(group) if group else "":
                    lacking += f"; its placement group is {said}"
                raise _too_small(what, bundles, lacking, waited, hopeless=hopeless)
        quiet = now - self._since
        if quiet < self._next_note:
            return
        # For others a run waits as long as they take: nothing is wrong with the cluster.
        is_placed = group is not None and is_created(group)
        bound = group.id.hex() if group and is_placed else ""
        busy = "" if lacking else held_by_others(bundles, bound)
        if lacking or busy or (group and not is_placed):
            said = state_of(group) if group else ""
            self._next_note += self._next_note * _GROWTH
            journal.note(
                "waiting for the cluster",
                plan,
                logging.WARNING,
                task=what,
                needs=needs(bundles),
                cluster=has(),
                **({"lacks": lacking or busy} if lacking or busy else {}),
                **({"placement_group": said} if said else {}),
                seconds=round(quiet),
                **({"gives_up_after": self._seconds} if lacking else {}),
            )


def _too_small(
    what: str, bundles: Sequence[Bundle], lacking: str, waited: float, *, hopeless: bool
) -> ClusterTooSmall:
    several = "" if len(bundles) == 1 else f" for {len(bundles)} processes at once"
    largest = max(bundle["memory"] for bundle in bundles)
    said = f"it needs {needs(bundles)}{several}, up to {largest / 2**30:.2f} GiB in one"
    if hopeless:
        said += ", and the autoscaler of the cluster has no node type that can hold it"
    elif waited >= 1:
        said += f", and no node came for it in {waited:.0f} s"
    return ClusterTooSmall(what, f"{said} ({lacking})")
