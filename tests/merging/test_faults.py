"""Stores that fail in the middle of a merge: it ends well, or with one error and nothing published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import NoSpaceLeft, StoreUnavailable
from lego_ray.storage.open import open_store
from tests.ceph_gateway import S3Server
from tests.merging.runs import SECONDS, many_sites, merged, started, until, words
from tests.storage.scripted_proxy import scripted_proxy
from tests.zoo import CONFIG, WEIGHTS, weights_of, write_zoo


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.create(str(file.relative_to(folder)), file.read_bytes())


def keys(uri: str) -> list[str]:
    return [info.key for info in open_store(uri).list()]


@pytest.mark.s3
def test_a_store_that_fails_now_and_then_changes_no_byte(
    s3_env: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, root = write_zoo(tmp_path / "zoo", 4), f"s3://{s3_bucket}"
    upload(zoo, f"{root}/zoo")
    plain: dict[str, Any] = {"rank": 4, "runner": "inline", "n_init": 2, "name": "m"}
    plan = lego_ray.plan(zoo, rank=4, n_init=2)
    budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
    lego_ray.merge(zoo, output=tmp_path / "m", **plain)
    with scripted_proxy(s3_env.endpoint_url) as proxy, monkeypatch.context() as patch:
        proxy.cut_after = 1_000  # often within a body
        faults = ("truncated", "reset", "truncated", "slow_down", "truncated", "lost_answer")
        proxy.script = [each for fault in faults * 3 for each in (fault, "")]  # each time only once
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        record = lego_ray.merge(
            f"{root}/zoo",
            output=f"{root}/m",
            # On disk: the Delta library holds the interpreter while it asks S3 whether a table is
            # there, and the proxy needs it to answer.
            catalog=tmp_path / "catalog",
            memory_budget=budget,
            **plain,
        )
        assert proxy.script == []
        assert set(proxy.faults) == {"truncated", "reset", "slow_down", "lost_answer"}
    assert record["status"] == "published"
    assert open_store(f"{root}/m").read(WEIGHTS) == weights_of(tmp_path / "m")
    assert len(keys(f"{root}/m")) == 4
    assert lego_ray.catalog.list_merges(tmp_path / "catalog").num_rows == 1


@dataclass(frozen=True)
class Many:
    """A zoo, the memory budget that makes each of its sites a task, and the weights it merges to."""

    zoo: Path
    budget: int
    weights: bytes


def many_merged(root: Path, count: int) -> Many:
    zoo, budget = many_sites(root, count)
    merged(zoo, root / "m", budget)
    return Many(zoo, budget, weights_of(root / "m"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    return many_merged(tmp_path_factory.mktemp("many"), 24)


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Many:
    return many_merged(tmp_path_factory.mktemp("dozen"), 12)


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["reset", "slow_down", "lost_answer"])
def test_a_store_that_fails_for_good_is_one_error_and_nothing_is_lost(
    fault: str, many: Many, s3_env: S3Server, s3_bucket: str
) -> None:
    zoo, budget = many.zoo, many.budget
    root = f"s3://{s3_bucket}"
    upload(zoo, f"{root}/zoo")

    def kept() -> list[str]:
        return [key for key in keys(f"{root}/m") if key.endswith(".checkpoint")]

    command = words(f"{root}/zoo", f"{root}/m", budget, "--runner", "inline")
    with (
        scripted_proxy(s3_env.endpoint_url) as proxy,
        started(command, AWS_ENDPOINT_URL=proxy.endpoint_url) as process,
    ):
        until(lambda: len(kept()) >= 2, process)
        proxy.script = [fault] * 10_000
        proxy.drop()
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == StoreUnavailable.exit_code
    assert json.loads(out)["error"]["type"] == "StoreUnavailable"
    [line] = err.splitlines()
    assert line.startswith(f"StoreUnavailable: {root}/")
    done = kept()
    assert not [key for key in keys(f"{root}/m") if not key.startswith(".lego-ray/")]
    record = merged(f"{root}/zoo", f"{root}/m", budget)
    assert (record["status"], record["resumed_sites"]) == ("published", len(done))
    assert open_store(f"{root}/m").read(WEIGHTS) == many.weights


def unshare() -> list[str]:
    """The command that gives a process mounts of its own, if there is one here."""
    program = shutil.which("unshare")
    if program is None:
        return []
    options = "-m" if os.getuid() == 0 else "-rm"
    probe = [program, options, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    works = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return [program, options] if works else []


# Fails, is looked at, is given more room, and goes on.
SCRIPT = """
mount -t tmpfs -o size="$SMALL" tmpfs "$DISK" || exit 99
"$@"; echo "status $?"
find "$DISK" -type f -not -path "*/.lego-ray/*"
echo enlarged
mount -o remount,size=64m "$DISK" || exit 99
"$@" && cp "$DISK"/m/*.* "$KEPT"
"""


@pytest.mark.skipif(not unshare(), reason="needs mounts of its own")
@pytest.mark.parametrize("small", ["64k", "208k"], ids=["as it runs", "as it publishes"])
def test_a_disk_that_is_full_is_one_error_and_nothing_is_lost(
    small: str, dozen: Many, tmp_path: Path
) -> None:
    zoo, budget = dozen.zoo, dozen.budget
    for name in ("disk", "kept"):
        (tmp_path / name).mkdir()
    command = words(zoo, tmp_path / "disk" / "m", budget, "--runner", "inline")
    environ = {"SMALL": small, "DISK": str(tmp_path / "disk"), "KEPT": str(tmp_path / "kept")}
    done = subprocess.run(
        [*unshare(), "sh", "-c", SCRIPT, "sh", sys.executable, "-m", "lego_ray", *command],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"NoSpaceLeft: {tmp_path / 'disk' / 'm'}/")
    assert "No space left on device" in line
    assert "Free space" in line
    before, _, after = done.stdout.partition("enlarged\n")
    told, status, *left = before.splitlines()
    assert json.loads(told)["error"]["type"] == "NoSpaceLeft"
    assert status == f"status {NoSpaceLeft.exit_code}"
    assert str(tmp_path / "disk" / "m" / CONFIG) not in left
    assert '"status": "published"' in after
    assert weights_of(tmp_path / "kept") == dozen.weights
    assert (tmp_path / "kept" / CONFIG).is_file()
