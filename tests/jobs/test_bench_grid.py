"""The grid of k-means, tiny: each peer clusters the same points, and is measured by the same inertia."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from jobs.benchmarks import grid
from jobs.benchmarks.kmeans_peers import fit_once, fits, inertia_of, ours
from lego_ray.numerics.costs import SEED_ROWS


def test_it_compares_all_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_module = importlib.import_module

    def without_faiss(name: str) -> object:
        if name == "faiss":
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", without_faiss)
    grid.main(["--small", "--points", "planted"])
    table, line = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    found = json.loads(line)
    assert "faiss left out: not installed" in table
    assert found["left_out"]["faiss"] == "not installed"
    assert {row["k"] for row in found["rows"]} == {4, 8}
    for row in found["rows"]:
        if row["name"] == "lego-ray":
            assert row["seconds_ratio"] == row["inertia_ratio"] == 1.0
        assert row["seconds"] > 0
        assert 0.5 < row["inertia_ratio"] < 2
    assert {row["name"] for row in found["rows"]} >= {"lego-ray", "scikit-learn"}


def test_inertia_is_that_of_the_labels() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [10.0, 4.0]])
    labels = torch.tensor([0, 0, 5, 5])  # clusters between are empty
    assert inertia_of(points, labels) == pytest.approx(1 + 1 + 4 + 4, rel=1e-9)


@pytest.mark.parametrize("n", [60, SEED_ROWS + 300])
def test_labels_are_in_the_order_of_the_points(n: int) -> None:
    where = torch.arange(n) % 3
    points = 10 * torch.eye(3, 16)[where]
    points += 0.01 * torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    for fit in (ours, fits("cpu")[0]["scikit-learn"]):
        [labels] = fit(points, 3, 2, 0)
        assert torch.equal(labels[:-3], labels[3:])
        assert len(set(labels.tolist())) == 3


def test_the_best_start_counts() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0]])
    starts = [torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])]
    seconds, inertia = fit_once(points, 2, 2, lambda *given: starts, 0)
    assert seconds >= 0
    assert inertia == pytest.approx(0.5)
