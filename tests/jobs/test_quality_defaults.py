"""The benchmark of the default: its arithmetic, its rule, and a run over zoos that goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.fixtures.train import FixtureAdapter
from jobs.quality import defaults_page as page
from jobs.quality.calibrated import temperature
from jobs.quality.decision import Difference, decide, differences, not_measured, pooled
from jobs.quality.defaults import (
    ADAPTIVE,
    BASE,
    LEGO_ADAPTIVE,
    OWN,
    PAPER,
    Bench,
    Cell,
    Kept,
    cells,
)
from jobs.quality.fresh_zoos import MINILM, OVER_TRAINED, SMOLLM2
from jobs.quality.language import BATCH, SORTED_BATCHES, batches_of
from jobs.quality.scores import Rows, Score
from jobs.quality.zoos import Zoo

ZOO = Path(__file__).parent.parent / "fixtures" / "zoo"
NAMES = ("movie-s11", "amazon-s12")
PAIR = Zoo("pair", "separate", tuple(FixtureAdapter(n, n.split("-")[0], 1) for n in NAMES))
TOO_FAR = replace(PAIR, name="too far", kind=OVER_TRAINED)


def test_a_zoo_is_cut_into_zoos_that_share_no_adapter() -> None:
    for zoos in (MINILM, SMOLLM2):
        for kind in ("separate", "shared"):
            for size in (2, 4):
                names = [
                    adapter.name
                    for zoo in zoos
                    if zoo.kind == kind and len(zoo.adapters) == size
                    for adapter in zoo.adapters
                ]
                assert names
                assert len(names) == len(set(names))


def test_rows_of_a_task_are_averaged_over_the_zoos_that_have_it() -> None:
    found = pooled([{"a": [1.0, 0.0]}, {"a": [0.0, 0.0], "b": [1.0]}])
    assert found == {"a": [0.5, 0.0], "b": [1.0]}


def test_a_temperature_undoes_a_factor_on_calibrated_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert temperature(4 * logits, labels) == pytest.approx(4, rel=0.1)


def test_each_text_is_in_one_batch_beside_texts_of_like_lengths() -> None:
    texts = [f"{'x' * (i * 7 % 100)} {i}" for i in range(SORTED_BATCHES * BATCH + 3)]
    found = batches_of(texts)
    assert sorted(text for batch in found for text in batch) == sorted(texts)
    assert [len(batch) for batch in found] == [BATCH] * SORTED_BATCHES + [3]
    first = [len(text) for batch in found[:SORTED_BATCHES] for text in batch]
    assert first == sorted(first)


def _find(values: Mapping[tuple[str, str], Rows]) -> Any:
    return lambda cell: values.get((cell.zoo.name, cell.candidate.label))


def test_differences_leave_out_over_trained_zoos_and_zoos_without_the_other() -> None:
    lone = replace(PAIR, name="lone")
    found = differences(
        [PAIR, TOO_FAR, lone],
        _find(
            {
                ("pair", "paper"): {"movie": [0.0, 0.0], "nats:movie": [-3.0, -3.0]},
                ("pair", "adaptive"): {"movie": [1.0, 0.0], "nats:movie": [-1.0, -1.0]},
                ("too far", "paper"): {"movie": [1.0, 1.0]},
                ("too far", "adaptive"): {"movie": [0.0, 0.0]},
                ("lone", "adaptive"): {"movie": [0.0, 0.0]},
            }
        ),
        "adaptive",
        "paper",
    )
    assert [(d.size, d.zoos) for d in found] == [(2, 1), (0, 1)]
    assert found[0].score.mean == 0.5
    assert found[0].score.error == pytest.approx(math.sqrt(0.5 / 2))


def _by_base(one: tuple[float, float, float], two: tuple[float, float]) -> Any:
    """Differences at T = 2, T = 4 and in the mean, each with an error of 0.1."""
    return {
        base: [
            Difference(size, 1, Score(mean, 0.1)) for size, mean in zip(sizes, means, strict=True)
        ]
        for base, sizes, means in (("one", (2, 4, 0), one), ("two", (2, 0), two))
    }


GOOD = _by_base((-0.05, 0.3, 0.1), (0.2, 0.2))


@pytest.mark.parametrize(
    ("lego_adaptive", "adaptive", "between", "preset"),
    [
        (GOOD, GOOD, _by_base((0, 0.3, 0.05), (0.2, 0.2)), "lego-adaptive"),
        (GOOD, GOOD, _by_base((0, 0.3, 0.15), (0.2, 0.2)), "adaptive"),
        (GOOD, _by_base((-0.2, 0.3, 0.1), (1, 1)), _by_base((0, 0, 1), (1, 1)), "lego-adaptive"),
        (_by_base((-0.15, 0.9, 0.4), (0.2, 0.2)), GOOD, GOOD, "paper"),
        (_by_base((-0.05, 0.04, 0.0), (0.2, 0.2)), GOOD, GOOD, "paper"),
    ],
    ids=["ahead on one base only", "ahead on both", "ahead, but below paper", "below", "no gain"],
)
def test_the_rule(lego_adaptive: Any, adaptive: Any, between: Any, preset: str) -> None:
    assert decide(lego_adaptive, adaptive, between).preset == preset


def test_the_default_stays_while_a_zoo_that_counts_is_not_measured() -> None:
    labels = ("paper", "lego-adaptive", "adaptive")
    find = _find({("pair", label): {} for label in labels} | {("lone", "paper"): {}})
    assert not_measured([PAIR, TOO_FAR, replace(PAIR, name="lone")], find) == ["lone"]
    found = decide(GOOD, GOOD, GOOD, ["one lone"])
    assert (found.preset, found.reasons) == ("paper", ("not measured yet: one lone",))


def test_what_decides_is_measured_first() -> None:
    lone = replace(PAIR, name="lone")
    bench = Bench("minilm", [TOO_FAR, PAIR, lone], {}, lambda zoo: None, lambda: Norms([]))
    first = [cell.zoo.name for cell in cells(bench)][:9]
    assert first == ["pair"] * 3 + ["lone"] * 3 + ["too far"] * 3


class Norms:
    """An evaluator whose values are scales and squared norms: what was put on the base, seen."""

    def __init__(self, calls: list[Path | None]) -> None:
        self._calls, self._value = calls, 0.0

    def take(self, adapter: Path | None, scale: float) -> None:
        self._calls.append(adapter)
        size = (adapter / "adapter_model.safetensors").stat().st_size if adapter else 0
        self._value = scale * size

    def values(self, task: str, split: str, rows: int) -> list[float]:
        return [self._value] * rows


def test_a_run_is_measured_once_and_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    for name in NAMES:
        (tmp_path / "adapters" / name).symlink_to(ZOO / name)
    calls: list[Path | None] = []
    trained: list[str] = []
    bench = Bench(
        "minilm",
        [PAIR],
        {"test": 3, "validation": 2},
        lambda zoo: trained.append(zoo.name),
        lambda: Norms(calls),
    )
    first = [Cell(PAIR, c, 1.0, "test") for c in (PAPER, LEGO_ADAPTIVE, ADAPTIVE, BASE, OWN)]
    assert list(cells(bench))[: len(first)] == first
    wanted = [cell for cell in first if cell.candidate in (PAPER, BASE, OWN)]
    for cell in wanted:
        Kept(tmp_path, bench).measure(cell)
    n_calls = len(calls)
    assert n_calls == len(wanted) + 1  # of own adapters, each
    kept = Kept(tmp_path, bench)
    for cell in wanted:
        kept.measure(cell)
        found = kept.find(cell)
        assert found is not None
        assert {task: len(rows) for task, rows in found.items()} == {"movie": 3, "amazon": 3}
    assert len(calls) == n_calls
    assert kept.find(Cell(PAIR, PAPER, 2.0, "test")) is None
    measured = [page.Measured("minilm", bench.zoos, bench.rows, False, kept.find)]
    found_results = {"date": "2026-01-02", **page.results(measured)}
    text = page.markdown(found_results)
    assert "no flag means `paper`: not measured yet: minilm pair." in text
    assert "| pair |" in text
    assert found_results["bases"]["minilm"]["zoos"][0]["test"]["base"]["mean"] == 0
