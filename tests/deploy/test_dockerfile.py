"""What can be said of the Dockerfile without Docker: it is read, never built."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from tests.deploy.templates import DEPLOY, ROOT

TEXT = (DEPLOY / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """The instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def of(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= {
        *("ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD")
    }


def test_the_base_is_pinned_and_a_python_that_is_supported() -> None:
    assert of("FROM") == ["${BASE}"]
    [base] = [arg.partition("=")[2] for arg in of("ARG") if arg.startswith("BASE=")]
    image, _, tag = base.partition(":")
    assert image == "python"
    assert re.fullmatch(r"3\.(1[1-9])\.\d+-slim-\w+", tag)


def test_packages_are_pinned() -> None:
    installs = [c for run in of("RUN") for c in re.findall(r"pip install[^;&]*", run)]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in install for install in installs)


def test_the_user_is_not_root() -> None:
    assert of("USER")[-1] == "1000:1000"
    last = max(i for i, (name, _) in enumerate(instructions()) if name == "USER")
    assert all(name in ("WORKDIR", "CMD") for name, _ in instructions()[last + 1 :])


def test_what_is_copied_is_there_and_sent_to_the_build() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignore if line.startswith("!")]
    for copy in of("COPY"):
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source.removeprefix("./"), f"{each}*") for each in sent), source


@pytest.mark.parametrize("name", ["merge_zoo", "build_catalog", "refresh_library"])
def test_the_entry_points_of_jobs_are_in_the_package_and_in_a_checkout(name: str) -> None:
    for module in (f"lego_ray.jobs.{name}", f"jobs.{name}"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"python -m lego_ray.jobs.{name}" in done.stdout
