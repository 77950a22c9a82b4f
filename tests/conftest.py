import os

import pytest
from hypothesis import settings

from tests.surroundings import shut_out

# Before anything is imported that reads them.
_clean_up = shut_out(os.environ)
# Ray gives its workers the least of a processor that others want; here the others are tests.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

pytest_plugins = ["tests.s3_server", "tests.browser", "tests.local_ray"]

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_unconfigure(config: pytest.Config) -> None:
    _clean_up()
