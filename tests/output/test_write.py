"""Create-only, complete or not there, and the same again after any crash."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.catalog.failures import translate
from lego_ray.errors import (
    BadInput,
    InvalidOption,
    NoSpaceLeft,
    NotRecorded,
    OutputExists,
    StoreUnavailable,
)
from lego_ray.merging import finish
from lego_ray.storage.file_errors import disk_errors
from tests.merging.runs import fails_after
from tests.zoo import CONFIG, WEIGHTS, files_of, write_adapter, write_zoo

MANIFEST = "lego_ray_manifest.json"
FILES = ["README.md", CONFIG, WEIGHTS, MANIFEST]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("publishing") / "zoo", 3)


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    if "method" not in options:
        options = {"n_init": 2, **options}
    return lego_ray.merge(zoo, output=output, **{"rank": 4, "runner": "inline", **options})


def contents(root: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files_of(root).items()}


def test_the_output_is_the_adapter_directory_itself(zoo: Path, tmp_path: Path) -> None:
    record = merge(zoo, tmp_path / "m")
    assert record["status"] == "published"
    assert record["output"] == str(tmp_path / "m")
    assert sorted(contents(tmp_path / "m")) == sorted(FILES)


def test_the_configuration_is_the_serve_safe_one_and_nothing_more(
    zoo: Path, tmp_path: Path
) -> None:
    merge(zoo, tmp_path / "m")
    config = json.loads((tmp_path / "m" / CONFIG).read_text())
    assert config == {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny/base",
        "r": 4,
        "lora_alpha": 4,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "task_type": None,
        "target_modules": [f"layers.{i}.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")],
    }


def test_the_manifest_says_what_went_in_and_what_came_out(zoo: Path, tmp_path: Path) -> None:
    record = merge(zoo, tmp_path / "m")
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    assert manifest["merge_id"] == record["merge_id"]
    assert [s["uri"] for s in manifest["sources"]] == record["adapters"]
    assert all(len(s["tensors_sha256"]) == 64 for s in manifest["sources"])
    assert len({s["tensors_sha256"] for s in manifest["sources"]}) == 3
    assert sorted(manifest["files"]) == sorted(set(FILES) - {MANIFEST})
    assert {"python", "torch", "lego-ray"} <= manifest["versions"].keys()


def test_the_card_gives_weights_and_scale(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", weights={"a1": 0.1, "a2": -2.0}, output_scale=1.25)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| output scale | 1.25 |" in card
    assert "| adapter | id | rank | weight | license |" in card
    assert str(zoo) not in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| `a")]
    weights = {row[0].removeprefix("| ").strip("`"): row[3] for row in rows}
    assert weights == {"a0": "1", "a1": "0.1", "a2": "-2"}


def test_the_card_lists_no_option_that_says_nothing(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", method="core_space", inner="sum")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "| inner | `sum` |" in card
    assert "density" not in card


def test_the_same_merge_again_writes_nothing_and_says_so(zoo: Path, tmp_path: Path) -> None:
    first = merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    before = files_of(tmp_path)
    again = merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    assert again["status"] == "already published"
    assert files_of(tmp_path) == before
    differing = {"status", "seconds", "bytes_read", "runner"}
    assert {k: v for k, v in again.items() if k not in differing} == {
        k: v for k, v in first.items() if k not in differing
    }


@pytest.mark.parametrize("other", [{"rank": 5}, {"seed": 1}, {"n_init": 3}, {"dtype": "BF16"}])
def test_another_plan_is_refused_and_changes_nothing(
    other: dict[str, Any], zoo: Path, tmp_path: Path
) -> None:
    merge(zoo, tmp_path / "m")
    before = files_of(tmp_path)
    with pytest.raises(OutputExists, match="another plan") as caught:
        merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog", **other)
    assert isinstance(caught.value, BadInput)
    assert files_of(tmp_path) == before


def test_another_adapter_there_is_refused_and_left_alone(zoo: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "m")
    before = files_of(tmp_path)
    with pytest.raises(OutputExists, match="lego-ray did not write"):
        merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    assert files_of(tmp_path) == before


def test_a_stray_weights_file_is_refused_and_left_alone(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / WEIGHTS).write_bytes(b"someone's work")
    with pytest.raises(OutputExists, match=r"adapter_model\.safetensors already exists"):
        merge(zoo, tmp_path / "m")
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == b"someone's work"
    assert not (tmp_path / "m" / CONFIG).exists()


@pytest.mark.parametrize(
    "missing",
    [[CONFIG], [CONFIG, MANIFEST], [CONFIG, MANIFEST, "README.md"], [CONFIG, WEIGHTS]],
    ids=str,
)
def test_an_output_cut_short_is_completed_by_the_same_merge(
    missing: list[str], zoo: Path, tmp_path: Path
) -> None:
    merge(zoo, tmp_path / "m")
    whole = files_of(tmp_path / "m")
    for name in missing:
        (tmp_path / "m" / name).unlink()
    assert merge(zoo, tmp_path / "m")["status"] == "published"
    after = files_of(tmp_path / "m")
    assert {n: d for n, (_, d) in after.items()} == {n: d for n, (_, d) in whole.items()}
    kept = set(whole) - set(missing)
    assert {n: after[n][0] for n in kept} == {n: whole[n][0] for n in kept}


def test_an_output_cut_short_is_not_completed_by_another_merge(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m")
    (tmp_path / "m" / CONFIG).unlink()
    before = files_of(tmp_path / "m")
    with pytest.raises(OutputExists):
        merge(zoo, tmp_path / "m", seed=1)
    assert files_of(tmp_path / "m") == before


@pytest.mark.parametrize("survived", range(2 + len(FILES)))  # a marker, a checkpoint, the files
def test_the_configuration_appears_last_whatever_write_fails(
    survived: int, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(zoo, tmp_path / "wanted", name="m")
    written = fails_after(survived, monkeypatch)
    with pytest.raises(StoreUnavailable):
        merge(zoo, tmp_path / "m")
    monkeypatch.undo()
    there = contents(tmp_path / "m")
    assert sorted(there) == (sorted(written) if survived > 1 else [])  # a marker alone is let go of
    assert CONFIG not in there
    merge(zoo, tmp_path / "m")
    assert contents(tmp_path / "m") == contents(tmp_path / "wanted")


@pytest.mark.parametrize("step", ["record_adapters", "append_merge"])
def test_a_crash_between_publishing_and_the_catalog_is_made_good(
    step: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finish, step, crash)
    with pytest.raises(KeyboardInterrupt):
        merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    monkeypatch.undo()
    before = files_of(tmp_path / "m")
    record = merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    assert record["status"] == "already published"
    assert record["resumed_sites"] == 4
    assert files_of(tmp_path / "m") == {n: f for n, f in before.items() if n in FILES}
    [row] = lego_ray.catalog.list_merges(tmp_path / "catalog").to_pylist()
    assert row["merge_id"] == record["merge_id"]
    counts = lego_ray.catalog.sql(
        tmp_path / "catalog",
        "SELECT (SELECT count(*) FROM merge_sites) AS sites, (SELECT count(*) FROM msus) AS msus",
    )
    assert counts.to_pylist() == [{"sites": 4, "msus": 48}]


def test_a_published_merge_is_entered_into_a_catalog_given_later(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m")
    before = files_of(tmp_path / "m")
    merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    assert files_of(tmp_path / "m") == before
    assert lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows == 1


def test_the_output_below_a_source_is_no_source(zoo: Path, tmp_path: Path) -> None:
    place = write_zoo(tmp_path / "zoo", 2)
    first = merge(place, place / "m", catalog=place / "catalog")
    again = merge(place, place / "m", catalog=place / "catalog")
    assert again["status"] == "already published"
    assert again["merge_id"] == first["merge_id"]
    assert len(again["adapters"]) == 2


@pytest.mark.parametrize("bad", [{"rank": 0}, {"seed": -1}, {"dtype": "F8"}, {"workers": 0}])
def test_bad_input_writes_nothing(bad: dict[str, Any], zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog", **bad)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file")
    with pytest.raises(OutputExists, match=r"it is a file.*Choose another --output") as caught:
        merge(zoo, tmp_path / "m")
    assert caught.value.exit_code == 2
    merge(zoo, tmp_path / "whole")
    with pytest.raises(OutputExists, match=r"it is a file.*Choose another --to"):
        lego_ray.publish(tmp_path / "whole", to=tmp_path / "m")
    with pytest.raises(OutputExists, match=rf"{tmp_path}/m is a file.*Choose another --output"):
        merge(zoo, tmp_path / "m" / "o")
    assert (tmp_path / "m").read_text() == "a file"


@pytest.mark.parametrize("folder", ["adapters", "merges/m", "msus/deep/er"])
def test_an_output_in_a_table_of_the_catalog_is_refused(
    zoo: Path, folder: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=r"directory of a table.*Choose another --output"):
        merge(zoo, tmp_path / "c" / folder, catalog=tmp_path / "c", method="linear")
    assert not list(tmp_path.iterdir())
    assert merge(zoo, tmp_path / "c" / "m", catalog=tmp_path / "c", method="linear")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_fails_the_run() -> None:
    with (
        pytest.raises(NoSpaceLeft, match=r"no space left.*Free space") as caught,
        disk_errors("/dev/full"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert caught.value.exit_code == 1


def test_a_limit_on_the_size_of_files_is_named(zoo: Path, tmp_path: Path) -> None:
    words = ("merge", zoo, "--rank", 4, "--method", "linear", "--output", tmp_path / "m")
    done = subprocess.run(
        # -B: Python would keep the first KiB of what it compiles, for later processes to fail on.
        [sys.executable, "-B", "-m", "lego_ray", *map(str, words), "--runner", "inline"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_small_files,
    )
    assert done.returncode == 1
    assert "NoSpaceLeft: " in done.stderr
    assert "may not write a file as large" in done.stderr
    assert "Raise the limit (`ulimit -f`)" in done.stderr


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_catalog_that_fails_after_publishing_says_that_it_is_published(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError("Unable to copy data to file: No space left on device (os error 28)")

    def fails(*given: object) -> None:
        raise translate("the catalog", full)

    monkeypatch.setattr(finish, "append_merge", fails)
    with pytest.raises(NotRecorded) as caught:
        merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    monkeypatch.undo()
    assert caught.value.exit_code == 1
    assert f"the merge is published at {tmp_path / 'm'}" in caught.value.problem
    assert caught.value.hint == "Free space, then run the same command again: that records it."
    merge(zoo, tmp_path / "m", catalog=tmp_path / "catalog")
    assert lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows == 1
