"""^C while the command line is loaded: one word and status 130, as later."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import os, signal, sys

WHEN = sys.argv.pop(1)

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == WHEN:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stop())
from lego_ray.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module", ["lego_ray.cli.main", "click", "lego_ray.cli.verify", "lego_ray.api.plan"]
)
def test_an_interrupt_while_a_module_is_loaded_is_quiet(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _RUN, module, "plan", str(tmp_path), "--rank", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


_IN_A_CALLBACK = """
import os, signal, sys, time, weakref

class Thing:
    pass

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "lego_ray.api.plan":
            thing = Thing()
            seen = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del thing
            time.sleep(30)

sys.meta_path.insert(0, Stop())
from lego_ray.__main__ import main
main()
"""


def test_an_interrupt_that_python_cannot_raise_is_not_lost(tmp_path: Path) -> None:
    """As in the callback of a weak reference, of which each import has some."""
    command = [sys.executable, "-c", _IN_A_CALLBACK, "plan", str(tmp_path), "--rank", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


_IN_TORCH = """
import os, signal, sys

NUMBER = getattr(signal, sys.argv[1])

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._core._add_newdocs":
            print("sent while torch starts:", "torch" in sys.modules, flush=True)
            os.kill(os.getpid(), NUMBER)

def stop(number, frame):
    raise KeyboardInterrupt

if NUMBER == signal.SIGTERM:
    signal.signal(NUMBER, stop)
before = signal.getsignal(NUMBER)
sys.meta_path.insert(0, Stop())
from lego_ray.lazy import torch
try:
    torch.zeros(1)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(NUMBER) is before
assert torch.zeros(2).shape == (2,)
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_torch_clears_is_not_lost(number: str) -> None:
    """What its start in C does with any error of importing numpy."""
    command = [sys.executable, "-c", _IN_TORCH, number]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["sent while torch starts: True", "interrupted"]
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_that_is_ignored_stays_so(tmp_path: Path) -> None:
    words = ["lego_ray.cli.main", "plan", str(tmp_path / "nowhere"), "--rank", "2"]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_ignore,
    )
    assert done.returncode == 2
    assert "ObjectNotFound" in done.stderr


def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
