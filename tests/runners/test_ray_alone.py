"""A local Ray is nobody else's: it listens on loopback, asks for a token, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lego_ray.runners.ray.alone import MODE, TOKEN, alone
from tests.runners.listening import is_loopback, listening
from tests.surroundings import without_ray

ROOT = Path(__file__).parents[2]
# Three local Rays start one after another, each in 5 s, and many times that on a busy machine.
SECONDS = 570


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_what_listens_is_seen() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0")):
        with socket.socket(family) as server:
            before = listening(os.getpid())
            server.bind((host, 0))
            server.listen()
            assert sorted(listening(os.getpid())) == sorted([*before, host])
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")


@pytest.mark.ray
@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_a_local_ray_is_on_loopback_with_a_token_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runners.ray_alone"],
        cwd=ROOT,
        env={**without_ray(), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    found = said["listening"]
    assert [each for each in found if not is_loopback(each[1])] == []
    names = {name for name, _ in found}
    assert {"gcs_server", "raylet"} <= names
    assert said["worker"]
    assert said["driver"]
    assert any(name.startswith("ray::RuntimeEnv") for name in names), names
    assert said["answers"] == {
        "no token": "AuthenticationError",
        "wrong token": "AuthenticationError",
    }
    assert (said["during"], said["after"]) == ({}, {})
    # No process of it sends logs, watches for nodes or shows a dashboard.
    assert said["gcs"]
    assert said["unused"] == []
    assert said["home"]
    assert said["used"]
    assert said["again"]


@pytest.mark.parametrize(
    ("given", "mode", "token"),
    [
        ({}, "token", None),
        ({MODE: "token"}, "token", None),
        ({MODE: "", TOKEN: ""}, "token", None),
        ({TOKEN: "mine"}, "token", "mine"),
        ({MODE: "TOKEN", TOKEN: "mine"}, "token", "mine"),
        ({MODE: "disabled"}, "disabled", ""),
    ],
)
def test_the_token_is_its_own_but_where_the_user_gave_one(
    given: dict[str, str], mode: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import ray_constants

    several = ray_constants.ENABLE_RAY_CLUSTER
    for name in (MODE, TOKEN):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    seen = []
    for _ in range(2):
        with alone():
            assert os.environ[MODE] == mode
            assert not ray_constants.ENABLE_RAY_CLUSTER
            seen.append(os.environ.get(TOKEN, ""))
        assert dict(os.environ) == before
        assert several == ray_constants.ENABLE_RAY_CLUSTER
    if token is not None:
        assert seen == [token, token]
    else:
        assert {len(each) for each in seen} == {64}
        assert seen[0] != seen[1]
