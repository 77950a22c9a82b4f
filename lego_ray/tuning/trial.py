"""Makes the merge of a trial in a folder of its own, scores it, and removes the folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lego_ray.errors import LegoRayError, MissingPackage, SourceChanged, StorageError
from lego_ray.merging.planned import Planned, make_planned
from lego_ray.merging.stages import Stages
from lego_ray.planning.arguments import recipe_of
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.planner import make_plan
from lego_ray.planning.source_changes import Attempt
from lego_ray.runners.inline import InlineRunner
from lego_ray.scoring.score import Score
from lego_ray.scoring.scorer import Scorer
from lego_ray.scoring.warden import removed_with_us
from lego_ray.storage.places import FilePlace, Place
from lego_ray.tasks.cached import ReadCache
from lego_ray.tuning.space import Choice

# In the name of a trial's folder, below the system's folder for temporary files.
PREFIX = "lego-ray-trial-"


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What is to be tried.

    Attributes:
        number: Its number, for the reply.
        choice: What to merge by.
        split: Which rows to score.
    """

    number: int
    choice: Choice
    split: str


@dataclass(frozen=True, slots=True)
class TrialReply:
    """What became of it.

    Attributes:
        number: The request's.
        score: The score; None if it failed.
        seconds: How long merging and scoring took.
        reason: Why it failed; empty if it did not.
        bytes_read: Bytes that were read of adapters.
    """

    number: int
    score: Score | None
    seconds: float
    reason: str = ""
    bytes_read: int = 0


@dataclass(slots=True)
class TrialMaker:
    """Makes and scores merges of the same adapters, which are read once as far as memory allows.

    It can be pickled until it is first asked, so that each worker of a cluster can have one.

    Attributes:
        sources: The user's words for where the adapters are, for errors.
        inventory: The adapters.
        fixed: Options of the merge that are not searched.
        name: The merge's name.
        scorer: What scores it.
        memory_budget: Most bytes that the merge may take, and that may be kept of adapters.
        gpus: Share of a GPU for the merge; 0 for none.
        threads: Most tasks of a merge that compute at once; None for one a CPU.
    """

    sources: Sequence[str]
    inventory: Inventory
    fixed: Mapping[str, Any]
    name: str
    scorer: Scorer
    memory_budget: int
    gpus: float = 0.0
    threads: int | None = None
    _cache: ReadCache | None = field(default=None, init=False)

    def reply(self, request: TrialRequest) -> TrialReply:
        """Tries it; a merge that cannot be made and a scorer that fails are its result.

        Raises:
            SourceChanged: If an adapter is not the one that was scanned: no trial would compare.
            StorageError: If a store fails.
            MissingPackage: If a package is missing.
        """
        started = time.perf_counter()
        score, reason, read = None, "", 0
        try:
            with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, removed_with_us(folder):
                place = FilePlace(str(Path(folder).absolute())).join(self.name)
                read = self.merge(request.choice, place)
                score = self.scorer.score(str(place), request.split)
        except (MissingPackage, SourceChanged, StorageError):
            raise
        except LegoRayError as error:
            reason = f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - started, 3)
        return TrialReply(request.number, score, seconds, reason, read)

    def merge(self, choice: Choice, place: Place) -> int:
        """Makes a merge: the bytes that `lego_ray.merge` writes with the same options.

        Args:
            choice: What to merge by.
            place: Its directory.

        Returns:
            Bytes that were read.
        """
        self._cache = self._cache or ReadCache(self.memory_budget)
        recipe = recipe_of(place, {**choice.options(self.fixed), "name": self.name})  # type: ignore[typeddict-item]
        plan = make_plan(
            recipe, self.inventory, sources=self.sources, memory_budget=self.memory_budget
        )
        runner = InlineRunner(self.gpus, self.threads, extract=self._cache.extract)
        try:
            records, _ = make_planned(
                [Planned(recipe, self.inventory, place, plan)],
                None,
                runner,
                attempt=Attempt(),
                memory_budget=self.memory_budget,
                progress=lambda plan, result: None,
                started=time.perf_counter(),
                stages=Stages(),
            )
        finally:
            runner.close()
        return records[recipe.name].bytes_read

    def close(self) -> None:
        """Ends what the scorer started."""
        self.scorer.close()
