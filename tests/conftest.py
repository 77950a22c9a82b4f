import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.steady_environment import hold_still
from tests.surroundings import ONE_THREAD, RAY_SETTINGS, SET_BY_OTHERS, shut_out

hold_still()
# Before anything is imported that reads them.
_clean_up = shut_out(os.environ)
os.environ.update(RAY_SETTINGS | ONE_THREAD)

pytest_plugins = ["tests.s3_server", "tests.cloud_servers", "tests.browser", "tests.local_ray"]

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Files that take longest, by far, first: whoever has one of these last, the others wait for.
_LONG = (
    *("jobs/test_soak", "runners/test_spread", "docs/test_pages_run", "catalog/test_fences"),
    *("runners/test_lost_node", "runners/test_tokens", "merging/test_after_a_kill"),
    *("catalog/test_data_files", "merging/test_interrupts", "merging/test_resume"),
    *("library/test_takeover", "merging/test_faults", "merging/test_source_changed"),
    *("methods/test_lego", "catalog/test_repair", "merging/test_two_runs"),
    *("jobs/test_catalog_storm", "runners/test_addresses", "jobs/test_bench_s3"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"tests/{name}.py": number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(autouse=True)
def _environment_is_left_as_it_was() -> Iterator[None]:
    """Fails the test that changes the environment of those that come after it."""
    before = dict(os.environ)
    yield
    changed = {name for name, _ in os.environ.items() ^ before.items()}
    changed -= {"PYTEST_CURRENT_TEST", *SET_BY_OTHERS}
    if changed:
        from lego_ray.runners.ray.alone import put_back

        put_back({name: before.get(name) for name in changed})
        pytest.fail(f"left the environment changed: {', '.join(sorted(changed))}")


@pytest.fixture(autouse=True)
def _no_lease_is_renewed_any_more() -> Iterator[None]:
    """Fails the test that leaves one: its requests would come in the middle of other tests."""
    yield
    if any(each.name == "lease" for each in threading.enumerate()):
        pytest.fail("left a lease that is renewed: end it, or see tests/storage/leases.py")


def pytest_unconfigure(config: pytest.Config) -> None:
    _clean_up()
