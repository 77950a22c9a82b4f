"""The looks of one try of a refresh at its library: what did not change is not read again."""

from __future__ import annotations

from dataclasses import dataclass, field

from lego_ray.catalog.tables import Catalog
from lego_ray.errors import LegoRayError
from lego_ray.library.current import Found, look
from lego_ray.library.find_groups import GroupFinder
from lego_ray.library.kept_readings import keep_readings, recall_readings
from lego_ray.library.places import RefreshPlaces
from lego_ray.library.record import RefreshRecord, record_of_unchanged
from lego_ray.library.state import State, state_of
from lego_ray.library.unchanged import keep, recall
from lego_ray.planning.group_options import GroupOptions
from lego_ray.planning.grouped import Grouping
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.recipe_file import LibraryRecipe
from lego_ray.planning.source_changes import Attempt
from lego_ray.sources.readings import Readings


class _NotMeasured(Exception):
    """Groups would have to be found that were not before; it never leaves this file."""


@dataclass(slots=True)
class Looks:
    """Looks at a library, its sources and its catalog; any number, one after another.

    Attributes:
        library: The library.
        places: Its places.
        catalog: Its catalog.
        memory_budget: Most bytes one worker may take.
        attempt: The try.
        finder: Finds groups.
        started: When the call began, by `time.perf_counter`.
        bytes_read: Bytes that the looks read, those for groups apart.
    """

    library: LibraryRecipe
    places: RefreshPlaces
    catalog: Catalog
    memory_budget: int
    attempt: Attempt
    finder: GroupFinder
    started: float
    bytes_read: int = 0
    _readings: Readings | None = None
    _groups: dict[object, Grouping] = field(default_factory=dict)
    _is_over: bool = False

    def look(self) -> Found:
        """Looks once; see `current.look`, also for the errors."""
        if self._readings is None:
            self._readings = Readings()
            store = self.places.output.open()
            self.bytes_read += recall_readings(store, self.library, self._readings)
        found = look(
            self.library,
            self.places,
            self.catalog,
            self.memory_budget,
            self.attempt,
            self._find,
            self._readings,
        )
        self.bytes_read += found.bytes_read
        return found

    def state(self) -> State | None:
        """The state of all that is looked at, for `recall` and `keep`.

        Returns:
            None if it cannot be told from listings, or this is not the first try: the record of a later
            one has warnings about the earlier.
        """
        if self.attempt.is_again:
            return None
        return state_of(
            self.library,
            self.places,
            memory_budget=self.memory_budget,
            strict=self.attempt.strict,
        )

    def recall(self, state: State) -> RefreshRecord | None:
        """What an earlier refresh found at this state, if it had nothing to do; else None."""
        return recall(self.places.output.open(), state, self.started)

    def keep(self, before: State | None, record: RefreshRecord) -> None:
        """Keeps the record of a look that found nothing to do, if the state is still what it was.

        Args:
            before: The state before the look.
            record: The record.
        """
        if before is not None and (now := self.state()) and now.digest == before.digest:
            keep(self.places.output.open(), now, record)

    def keep_readings(self) -> None:
        """Keeps what the looks read of headers, for the next refresh."""
        if self._readings is not None:
            keep_readings(self.places.output.open(), self.library, self._readings)

    def keep_after_work(self) -> None:
        """Looks once more after a refresh did its work, so that the next need not if nothing changes.

        The refresh is done whatever this finds, so no error leaves it.
        """
        before = self.state()
        if before is None:
            return
        self._is_over = True
        try:
            found = self.look()
        except (LegoRayError, _NotMeasured):  # the next refresh meets it
            return
        if found.is_current and not found.has_new_marks:
            self.keep(before, self.unchanged(found))

    def unchanged(self, found: Found) -> RefreshRecord:
        """The record of a refresh that has nothing to do."""
        read = self.bytes_read + self.finder.bytes_read + self.attempt.bytes_read
        return record_of_unchanged(
            found, self.places, self.catalog, self.attempt, read, self.started
        )

    def _find(self, recipe: Recipe, inventory: Inventory, how: GroupOptions) -> Grouping:
        """The same groups for the same adapters, without measuring them again."""
        adapters = tuple(
            (a.uri, a.adapter_id, a.version, a.config_version) for a in inventory.adapters
        )
        key = (recipe.name, adapters, inventory.refused)
        if key not in self._groups:
            if self._is_over:
                raise _NotMeasured
            self._groups[key] = self.finder.find(recipe, inventory, how)
        return self._groups[key]
