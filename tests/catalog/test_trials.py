"""The `trials` table: each trial of a study once, also after it was continued or repaired."""

from __future__ import annotations

from pathlib import Path

from deltalake import write_deltalake

from lego_ray.catalog.repair.repairing import repair
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.trials import record_trials
from tests.catalog.sample import trial
from tests.catalog.test_repair import Outputs

STUDY = "s" * 64


def numbers(catalog: Catalog) -> list[int]:
    return sorted(catalog.read("trials")["trial"].to_pylist())


def test_each_trial_is_recorded_once(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    rows = [trial(trial=number) for number in range(5)]
    for count in (2, 2, 5, 3):
        record_trials(catalog, STUDY, rows[:count])
    assert numbers(catalog) == [0, 1, 2, 3, 4]
    record_trials(catalog, "t" * 64, [trial(study_id="t" * 64)])
    assert numbers(catalog) == [0, 0, 1, 2, 3, 4]


def test_a_study_that_was_repaired_goes_on(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    rows = [trial(trial=number) for number in range(4)]
    record_trials(catalog, STUDY, rows[:2])
    data = catalog.whole("trials").to_table()
    write_deltalake(catalog.open("trials"), data, mode="append")
    repair(catalog, Outputs())
    record_trials(catalog, STUDY, rows)
    assert numbers(catalog) == [0, 1, 2, 3]
