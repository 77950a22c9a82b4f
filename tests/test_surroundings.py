"""Tests pass on any machine: what it is set to is not seen."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.surroundings import shut_out


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
