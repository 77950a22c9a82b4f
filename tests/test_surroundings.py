"""Tests pass on any machine: what it is set to is not seen."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.surroundings import shut_out

ROOT = Path(__file__).parents[1]


def test_settings_of_the_machine_are_not_seen() -> None:
    given = {
        **{"PATH": "/bin", "CI": "1", "TMPDIR": "/t", "HOME": "/home/you", "LC_ALL": "tr_TR.UTF-8"},
        **{"AWS_PROFILE": "work", "HF_TOKEN": "hf_x", "RAY_ADDRESS": "auto", "COLUMNS": "40"},
        **{
            "LEGO_RAY_DEBUG": "1",
            "XDG_CACHE_HOME": "/c",
            "http_proxy": "http://p",
            "TZ": "Asia/Tokyo",
        },
    }
    umask = os.umask(0o022)
    clean_up = shut_out(given)
    os.umask(umask)
    home = Path(given.pop("HOME"))
    try:
        assert given == {"PATH": "/bin", "CI": "1", "TMPDIR": "/t", "LC_ALL": "C.UTF-8"}
        assert list(home.iterdir()) == []
    finally:
        clean_up()
    assert not home.exists()


def test_this_run_has_a_home_of_its_own(tmp_path: Path) -> None:
    assert Path.home().name.startswith("lego-home-")
    (tmp_path / "file").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_suite_in_the_background_can_interrupt_what_it_starts() -> None:
    # A shell without job control has its background jobs ignore these, and theirs inherit that.
    deaf = 'trap \'\' INT HUP QUIT; exec "$0" -c "$1"'
    program = (
        "import os, signal, subprocess\n"
        "from tests.surroundings import shut_out\n"
        "shut_out({})()\n"
        "print(*(signal.getsignal(s) != signal.SIG_IGN for s in (1, 2, 3)))\n"
    )
    said = subprocess.run(
        ["sh", "-c", deaf, sys.executable, program], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["True"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads a variable of the C library")
def test_variables_do_not_move_while_others_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads read them without Python's lock. Without `hold_still` a C library may move them each time.
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    place = ctypes.c_void_p.in_dll(libc, "environ")
    before = place.value
    kept: list[bytearray] = []
    for number in range(300):
        monkeypatch.setenv(f"ADDED_{number}", f"a={number}")
        kept.append(bytearray(900 + 8 * number))  # takes the memory behind them
    monkeypatch.setenv("ADDED_7", "another")
    monkeypatch.delenv("ADDED_8")
    assert place.value == before
    assert [libc.getenv(b"ADDED_%d" % n) for n in (6, 7, 8, 299)] == [
        *(b"a=6", b"another", None, b"a=299")
    ]
    seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.split("\n")
    added = {line for line in seen if line.startswith("ADDED_")}
    assert added == {f"{name}={os.environ[name]}" for name in os.environ if "ADDED_" in name}
    assert len(added) == 299


def test_a_suite_that_loses_a_process_ends(tmp_path: Path) -> None:
    for number in range(6):
        ends = "import os\ndef test_ends(): os.kill(os.getpid(), 9)\n" if number == 3 else ""
        several = "".join(f"def test_{n}(): pass\n" for n in range(6))
        (tmp_path / f"test_file_{number}.py").write_text(several + ends)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-n", "2"]
    command += ["--rootdir", str(tmp_path), "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "crashed while running 'test_file_3.py::test_ends'" in done.stdout
