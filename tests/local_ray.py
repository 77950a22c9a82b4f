"""One Ray for the tests of a process that can share one; a runner uses a Ray that is up already."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

_shared: list[bool] = []


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray of two CPUs."""
    importlib.import_module("lego_ray.runners.ray.session")  # sets what Ray reads on import
    import ray

    from lego_ray.runners.ray.alone import few_processes

    with few_processes():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
    _shared.append(True)
    try:
        yield
    finally:
        _shared.clear()
        ray.shutdown()


@pytest.fixture(autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    """Fails the test that leaves a Ray up; otherwise a later one that starts its own would fail."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and not _shared and ray.is_initialized():
        ray.shutdown()
        pytest.fail("left a Ray up: close the runner, or run with --runner inline")
