"""A Ray that asks for a token: who has it joins, who has not is told so at once, and how to give it.

The head is a real one, in processes of its own; it listens on loopback.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import lego_ray
from tests.surroundings import without_ray
from tests.zoo import files_of, weights_of, write_zoo

ROOT = Path(__file__).parents[2]
# To start a Ray and its workers takes 5 s, and many times that on a machine with other work.
SECONDS = 280

pytestmark = [pytest.mark.ray, pytest.mark.timeout(SECONDS + 20)]


@dataclass(frozen=True)
class Head:
    """A Ray that asks for a token."""

    address: str
    token: str


def clean() -> dict[str, str]:
    """An environment that says nothing to Ray but to stay on loopback."""
    return {
        **without_ray(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    token = secrets.token_hex(32)
    # Not below pytest's own directory: a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        command += ["--port", "0", "--temp-dir", folder, "--num-cpus", "1"]
        command += ["--include-dashboard", "false", "--disable-usage-stats"]
        command += ["--object-store-memory", str(100 * 2**20)]
        log = Path(folder, "start.log")
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                env={**clean(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
                cwd=folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield Head(address_in(Path(folder), log, process), token)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, and beside it its merge `inline`."""
    root = tmp_path_factory.mktemp("tokens")
    zoo = write_zoo(root / "zoo", 2)
    lego_ray.merge(zoo, rank=4, output=root / "inline", n_init=2, runner="inline")
    return zoo


def address_in(folder: Path, log: Path, process: subprocess.Popen[bytes]) -> str:
    """Where a head is, once it is up; it writes the port that it found into its folder."""
    deadline = time.monotonic() + SECONDS
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    [port] = folder.glob("session_2*/gcs_server_port_*")
    return f"127.0.0.1:{port.read_text().strip()}"


def merge(
    address: str, zoo: Path, output: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "lego_ray", "merge", str(zoo), "--output", str(output)]
    words += ["--rank", "4", "--n-init", "2", "--json", "--runner", "ray", "--address", address]
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**clean(), **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def placed(case: str, head: Head, home: Path) -> tuple[str, dict[str, str]]:
    """An address and an environment; `right` or `wrong` is the token, then how it is given."""
    token, _, how = case.partition(" ")
    text = head.token if token == "right" else "0" * 64
    mode = {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    file = home / ".ray" / "auth_token"
    if how == "variable":
        return head.address, {**mode, "RAY_AUTH_TOKEN": text}
    file.parent.mkdir()
    file.write_text(text)
    if how == "path":
        named = file.rename(home / "mine")
        return head.address, {**mode, "RAY_AUTH_TOKEN_PATH": str(named)}
    if how == "home":
        return head.address, mode
    assert how == "auto"  # as Ray does: a token in the home is enough
    return "auto", {"HOME": str(home), "RAY_ADDRESS": head.address}


@pytest.mark.parametrize("case", ["right variable", "right path", "right home", "right auto"])
def test_who_has_the_token_joins(case: str, zoo: Path, head: Head, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    address, environ = placed(case, head, home)
    done = merge(address, zoo, tmp_path / "m", environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights_of(tmp_path / "m") == weights_of(zoo.parent / "inline")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("none", "RAY_AUTH_MODE is not `token`"),
        ("none auto", "RAY_AUTH_MODE is not `token`"),
        ("mode alone", "no token is given"),
        ("no such file", "RAY_AUTH_TOKEN_PATH names"),
        ("wrong path", "does not match"),
        ("wrong auto", "does not match"),
    ],
)
def test_who_has_it_not_is_told_how_to_give_it(
    case: str, says: str, zoo: Path, head: Head, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    address, environ = head.address, {"HOME": str(home)}
    if case == "none auto":
        address, environ["RAY_ADDRESS"] = "auto", head.address
    elif case == "mode alone":
        environ["RAY_AUTH_MODE"] = "token"
    elif case == "no such file":
        environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "none")}
    elif case.startswith("wrong"):
        address, environ = placed(case, head, home)
    done = merge(address, zoo, tmp_path / "m", environ)
    assert done.returncode == 2, done.stderr[-3000:]
    told = json.loads(done.stdout)["error"]
    assert told["type"] == "BadInput"
    assert says in told["message"]
    for name in (
        "RAY_AUTH_MODE=token",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "~/.ray/auth_token",
    ):
        assert name in told["next"]
    # Asked once: Ray itself goes on for half a minute.
    assert done.stderr.count("InvalidAuthToken") <= 2
    assert head.token not in done.stdout + done.stderr
    assert files_of(tmp_path / "m") == {}
