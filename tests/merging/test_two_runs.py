"""Two runs of one merge at once: one publishes, both end well, the catalog has it once."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.storage.open import open_store
from tests.merging.runs import SECONDS, many_sites, started, until, words
from tests.zoo import CONFIG, WEIGHTS, weights_of

FILES = sorted(["README.md", CONFIG, WEIGHTS, "lego_ray_manifest.json"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, bytes]:
    """A zoo, the budget that makes a task of each site, and the weights of its merge."""
    root = tmp_path_factory.mktemp("two")
    zoo, budget = many_sites(root, 12)
    plain = {"rank": 8, "name": "m", "n_init": 30, "runner": "inline"}
    lego_ray.merge(zoo, output=root / "wanted", **plain)  # type: ignore[arg-type]
    return zoo, budget, weights_of(root / "wanted")


def at_once(*commands: list[str]) -> list[dict[str, Any]]:
    """Runs command lines at the same time and returns their records."""
    with ExitStack() as stack:
        running = [stack.enter_context(started(command)) for command in commands]
        ended = [process.communicate(timeout=SECONDS) for process in running]
        for process, (_, err) in zip(running, ended, strict=True):
            assert process.returncode == 0, err[-3000:]
    return [json.loads(out) for out, _ in ended]


def check(records: list[dict[str, Any]], output: str, catalog: str, wanted: bytes) -> None:
    assert sorted(r["status"] for r in records) == ["already published", "published"]
    assert len({r["merge_id"] for r in records}) == 1
    store = open_store(output)
    assert sorted(info.key for info in store.list()) == FILES
    assert store.read(WEIGHTS) == wanted
    assert lego_ray.catalog.list_merges(catalog).num_rows == 1
    counts = lego_ray.catalog.sql(
        catalog,
        "SELECT (SELECT count(*) FROM merge_sites) AS sites, (SELECT count(*) FROM msus) AS msus, "
        "(SELECT count(*) FROM adapters) AS adapters",
    )
    assert counts.to_pylist() == [{"sites": 12, "msus": 12 * 6 * 8, "adapters": 6}]


@pytest.mark.parametrize("same_cut", [True, False], ids=["same tasks", "other tasks"])
def test_two_runs_at_once_on_disk(
    same_cut: bool, many: tuple[Path, int, bytes], tmp_path: Path
) -> None:
    zoo, budget, wanted = many
    flags = ("--runner", "inline", "--catalog", tmp_path / "catalog")
    budgets = (budget, budget if same_cut else budget + budget // 4)
    records = at_once(*(words(zoo, tmp_path / "m", each, *flags) for each in budgets))
    check(records, str(tmp_path / "m"), str(tmp_path / "catalog"), wanted)


@pytest.mark.s3
def test_two_runs_at_once_on_s3(many: tuple[Path, int, bytes], s3_bucket: str) -> None:
    zoo, budget, wanted = many
    output, catalog = f"s3://{s3_bucket}/m", f"s3://{s3_bucket}/catalog"
    command = words(zoo, output, budget, "--runner", "inline", "--catalog", catalog)
    check(at_once(command, command), output, catalog, wanted)


def test_a_run_goes_on_while_another_publishes_and_tidies_up(
    many: tuple[Path, int, bytes], tmp_path: Path
) -> None:
    """The second starts late and takes what the first has done; the first ends in its middle."""
    zoo, budget, wanted = many
    command = words(
        zoo, tmp_path / "m", budget, "--runner", "inline", "--catalog", tmp_path / "catalog"
    )
    folder = tmp_path / "m" / ".lego-ray"
    with started(command) as first:
        until(lambda: len(list(folder.glob("*/*.checkpoint"))) >= 2, first)
        with started(command) as second:
            ended = [process.communicate(timeout=SECONDS) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ended
    check(
        [json.loads(out) for out, _ in ended],
        str(tmp_path / "m"),
        str(tmp_path / "catalog"),
        wanted,
    )
