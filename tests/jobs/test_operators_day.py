"""A day of an operator, on a head and three nodes over S3: each thing that happens to a nightly refresh.

The head has no CPU, as in the manifests of `deploy/`. Needs `ray[default]`; see `tests.jobs.ray_head`.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from jobs.benchmarks import processes
from lego_ray.storage.open import open_store
from tests.ceph_gateway import S3Server
from tests.jobs.ray_head import NEEDS_DASHBOARD, Head, nodes, ray_head, wait_until
from tests.zoo import WEIGHTS, Site, weights_of, write_adapter, write_zoo

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(1500), NEEDS_DASHBOARD]

SITES = tuple(Site(f"layers.{i}.q_proj", (192,), 192) for i in range(10))
OPTIONS: dict[str, Any] = {"rank": 4, "n_init": 30, "tol": 0.0}
RECIPE = """
sources: [s3://{bucket}/zoo]
catalog: s3://{bucket}/catalog
output: s3://{bucket}/library
merges: [{{name: all, rank: 4, options: {{n_init: 30, tol: 0.0}}}}]
"""


class Library:
    """A library of one merge on S3, and a copy of its sources on disk to merge again from."""

    def __init__(self, folder: Path, server: S3Server, bucket: str) -> None:
        self.folder, self.server, self.bucket = folder, server, bucket
        self.zoo = write_zoo(folder / "zoo", 10, sites=SITES, rank=16)
        server.upload(self.zoo, bucket, "zoo/")
        open_store(f"s3://{bucket}").create("library.yaml", RECIPE.format(bucket=bucket).encode())
        most = write_zoo(folder / "most", 13, sites=SITES, rank=16)
        whole = lego_ray.plan(most, **OPTIONS)
        # A task a site, also when the day's adapters have come.
        self.budget = max(site.peak_bytes for task in whole.tasks for site in task.sites)
        self.entry: tuple[object, ...] = (
            *("-m", "lego_ray.jobs.refresh_library", f"s3://{bucket}/library.yaml"),
            *("--memory-budget", self.budget),
        )

    def gain(self, name: str, seed: int) -> None:
        """An adapter more."""
        made = write_adapter(self.folder / name, seed=seed, sites=SITES, rank=16)
        (self.zoo / name).symlink_to(made)
        self.server.upload(made, self.bucket, f"zoo/{name}/")

    def tasks_saved(self) -> int:
        """Finished tasks of merges that are not published."""
        try:
            found = lego_ray.library_status(f"s3://{self.bucket}/library")
        except lego_ray.errors.ObjectNotFound:
            return 0
        return sum(merge.tasks_saved or 0 for merge in found.merges)

    def begun(self, head: Head, job: str) -> None:
        """Starts a refresh and waits until it has finished a task."""
        head.begin(job, *self.entry)

        def saved() -> int:
            assert head.status(job) in ("pending", "running"), head.log(job)
            return self.tasks_saved()

        wait_until(saved)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The refresh that runs does not go on within the block."""
        named = f"s3://{self.bucket}/library.yaml"
        drivers = [pid for pid in processes.tree(1) if named in processes.arguments(pid)]
        assert drivers
        for pid in drivers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in drivers:
                os.kill(pid, signal.SIGCONT)

    def check(self, record: dict[str, Any], version: int) -> None:
        """A refresh made the next version, to the bits of a merge in this process."""
        assert record["status"] == "refreshed"
        [merge] = record["merges"]
        assert merge["version"] == version
        place = self.folder / f"alone-{version}"
        lego_ray.merge(self.zoo, output=place, runner="inline", **OPTIONS)
        assert open_store(merge["output"]).read(WEIGHTS) == weights_of(place)


def test_a_day(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    library = Library(tmp_path, s3_server, s3_bucket)
    # Ray looks every second whether a node is there.
    more = {**s3_server.environ(), "RAY_health_check_period_ms": "1000"}
    with ray_head(0, more) as head, nodes(head) as there:
        for name in ("a", "b", "c"):
            there.add(name)

        # The nightly refresh, in which a node is lost and another comes.
        library.begun(head, "night")
        there.lose("b")
        there.add("d")
        assert head.wait_for("night", "succeeded", "failed") == "succeeded", head.log("night")
        library.check(head.record("night"), 1)

        # One that is stopped keeps what is done, and the next goes on from there.
        library.gain("morning", 101)
        library.begun(head, "morning")
        head.ray("stop", "morning")
        assert head.wait_for("morning", "stopped", "succeeded", "failed") == "stopped"
        log = head.log("morning")
        assert "Traceback" not in log
        assert "ERROR" not in log
        saved = library.tasks_saved()
        assert saved
        head.begin("again", *library.entry)
        assert head.wait_for("again", "succeeded", "failed") == "succeeded", head.log("again")
        record = head.record("again")
        library.check(record, 2)
        assert record["merges"][0]["resumed_sites"] >= saved

        # Two at once: one works, the other says who does.
        library.gain("noon", 102)
        library.begun(head, "noon")
        with library.paused():  # it would be done before the other looks
            head.begin("noon-too", *library.entry)
            assert head.wait_for("noon-too", "succeeded", "failed") == "succeeded"
        busy = head.record("noon-too")
        assert busy["status"] == "busy"
        assert {"host", "pid", "job", "since", "last_sign_at"} <= busy["holder"].keys()
        assert head.wait_for("noon", "succeeded", "failed") == "succeeded", head.log("noon")
        library.check(head.record("noon"), 3)

        # A node with another lego-ray is refused by name; what others did is kept.
        library.gain("evening", 103)
        there.add("old", {"PYTHONPATH": another_release(head, tmp_path / "old")})
        for name in ("a", "c", "d"):
            there.lose(name)
        assert not head.submit("evening", *library.entry)
        mine = importlib.metadata.version("lego-ray")
        log = head.log("evening")
        assert f"lego-ray 0.0.1 there, {mine} here" in log
        assert "VersionMismatch" in log
        there.lose("old")
        there.add("e")
        assert head.submit("late", *library.entry), head.log("late")
        library.check(head.record("late"), 4)
    catalog = lego_ray.catalog.list_merges(f"s3://{s3_bucket}/catalog").to_pylist()
    assert sorted(row["version"] for row in catalog) == [1, 2, 3, 4]


def another_release(head: Head, folder: Path) -> str:
    """A PYTHONPATH with the head's lego-ray, which says of itself that it is older."""
    said = folder / "lego_ray-0.0.1.dist-info"
    said.mkdir(parents=True)
    (said / "METADATA").write_text("Metadata-Version: 2.1\nName: lego-ray\nVersion: 0.0.1\n")
    return f"{folder}:{head.installed}"
