"""The benchmark for a GPU on the CPU, tiny: the same code, and checks that can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from jobs.benchmarks import gpu, gpu_checks
from jobs.benchmarks.gpu_checks import Site, compare_site, solve
from jobs.benchmarks.gpu_merges import Merged, compare_merges
from jobs.benchmarks.gpu_sizes import ROUTES, SMALL
from lego_ray.methods.base import SiteSolution
from lego_ray.numerics.shards import shard as work

ON_CPU = ["--device", "cpu", "--small"]
SITE = Site("tiny", 48, 32, 4, ROUTES)


def record(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    table, line = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    return table, json.loads(line)


def test_it_checks_and_measures_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(ON_CPU) == 0
    table, found = record(capsys)
    assert not found["skipped"]
    checks = [row for row in found["rows"] if row["passed"] is not None]
    assert all(row["passed"] for row in checks)
    names = {row["what"] for row in checks}
    assert {f"{s.name}, {route}: labels" for s in SMALL.sites for route in s.routes} <= names
    assert any("merged adapter" in name for name in names)
    measured = [row["part"] for row in found["rows"] if row["figures"]]
    assert set(measured) == {"merge", "step", "search", "copy", "k-means"}
    assert "flash-kmeans" in table
    assert "left out: its kernels need a GPU" in table


def only_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(SMALL, sites=(SITE,), ranks=(), zoos=())
    monkeypatch.setattr(gpu, "SMALL", few)


def test_a_wrong_label_is_named_and_ends_it_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoilt(site: Site, device: str, route: str, n_init: int = 10) -> SiteSolution:
        found = solve(site, device, route, n_init)
        if route != "spread":
            return found
        assert found.labels is not None
        labels = found.labels.clone()
        labels[7] = (labels[7] + 1) % site.k
        return replace(found, labels=labels)

    only_checks(monkeypatch)
    monkeypatch.setattr(gpu_checks, "solve", spoilt)
    assert gpu.main(ON_CPU) == 1
    table, found = record(capsys)
    [line] = [
        line for line in table.splitlines() if "tiny, spread: labels" in line and "FAIL" in line
    ]
    wanted = solve(SITE, "cpu", "gram")
    assert wanted.labels is not None
    cluster = int(wanted.labels[7])
    assert f"1 of 48 differ; first rank {int(wanted.ranks[7])} of adapter" in line
    assert f"cluster {cluster} on the CPU, {(cluster + 1) % SITE.k} here" in line
    assert "failed: tiny, spread: labels" in table
    assert [row["what"] for row in found["rows"] if row["passed"] is False] == [
        "tiny, spread: labels",
        "tiny, spread: lineage",  # which has the labels as clusters
    ]


def test_a_step_that_is_wrong_by_a_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    step = work.step

    def spoilt(*given: Any) -> Any:
        labels, [change] = step(*given)
        change.sums[0, 0] += 2.0**-20
        return labels, [change]

    assert all(check.passed for check in gpu_checks.check_step(SITE, "cpu"))
    monkeypatch.setattr(work, "step", spoilt)
    failed = [check.what for check in gpu_checks.check_step(SITE, "cpu") if not check.passed]
    assert failed == ["tiny: sums of a step"]


SPOILT: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = [
    ("rows", lambda rows: rows * (1 + 1e-4), "merged rows"),
    ("rows", lambda rows: rows * torch.nan, "merged rows"),
    ("distances", lambda distances: distances + 1e-3, "lineage"),
    ("weights", lambda weights: weights.roll(1), "lineage"),
    ("ranks", lambda ranks: ranks.roll(1), "lineage"),
]


@pytest.mark.parametrize(("field", "spoil", "failed"), SPOILT)
def test_each_promise_is_checked(
    field: str, spoil: Callable[[torch.Tensor], torch.Tensor], failed: str
) -> None:
    wanted = solve(SITE, "cpu", "gram", 2)
    assert all(check.passed for check in compare_site("x", wanted, wanted))
    spoilt: dict[str, Any] = {field: spoil(getattr(wanted, field))}
    found = replace(wanted, **spoilt)
    checks = compare_site("x", wanted, found)
    assert [check.what for check in checks if not check.passed] == [f"x: {failed}"]


def test_rounding_is_no_fault_and_is_said() -> None:
    wanted = solve(SITE, "cpu", "gram", 2)
    found = replace(wanted, rows=wanted.rows * (1 + 2.0**-22))
    [_, rows, _] = compare_site("x", wanted, found)
    assert rows.passed
    assert "apart by" in rows.found


def merged(folder: Path, values: torch.Tensor, clusters: list[int], rank: int = 0) -> Merged:
    folder.mkdir()
    save_file({"a": values}, folder / "adapter_model.safetensors", metadata={"rank": str(rank)})
    rows = {"cluster": clusters, "distance": [0.5, 0.25], "weight": [1.0, 1.0]}
    return Merged(folder, pa.table(rows), 1.0, 1.0)


def test_whole_merges_are_compared_by_lineage_and_files(tmp_path: Path) -> None:
    values = torch.arange(1.0, 9.0)
    wanted = merged(tmp_path / "cpu", values, [0, 1])
    spoilt = merged(tmp_path / "spoilt", values + 1e-3, [1, 1])
    checks = compare_merges("x", wanted, spoilt)
    assert [check.passed for check in checks] == [False, False]
    assert checks[0].found == "columns cluster differ"
    near = compare_merges("x", wanted, merged(tmp_path / "near", values * (1 + 2.0**-22), [0, 1]))
    assert [check.passed for check in near] == [True, True]
    assert near[1].found == "other bytes, within rounding"


def test_what_time_is_too_short_for_is_said_and_no_check_counts_as_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_checks(monkeypatch)
    assert gpu.main([*ON_CPU, "--minutes", "0"]) == 1
    table, found = record(capsys)
    assert found["rows"] == []
    assert "its share of the time is used up" in table
    assert "not checked: tiny; step, tiny" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "finds no CUDA device. Run this on a machine with a GPU" in printed.err
    assert "--device cpu --small" in printed.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_checks_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--small"]) == 0
    assert "CPU" not in record(capsys)[1]["device"]
