"""Shells complete commands, flags, methods and paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, ShellComplete

from lego_ray.cli.completion import SHELLS
from lego_ray.cli.main import cli, main


def completed(words: list[str], incomplete: str) -> set[str]:
    shell = ShellComplete(cli, {}, "lego-ray", "_LEGO_RAY_COMPLETE")
    return {f"{item.type} {item.value}" for item in shell.get_completions(words, incomplete)}


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "mer", {"plain merge"}),
        (["catalog"], "li", {"plain list", "plain lineage"}),
        (["merge", "--method"], "dare", {"plain dare_linear", "plain dare_ties"}),
        (["merge", "--output-reweight"], "p", {"plain pool"}),
        (["merge", "--option"], "n_", {"plain n_init="}),
        (["merge", "--option"], "basis=s", {"plain basis=svd"}),
        (["methods"], "le", {"plain lego", "plain lego-adaptive"}),
        (["merge", "--rank"], "", {"plain auto"}),
        (["merge"], "--deb", {"plain --debug"}),
        (["merge"], "./ad", {"file ./ad"}),
        (["merge", "zoo", "--output"], "m", {"dir m"}),
        (["merge"], "s3://zoo/", set()),
        (["completion"], "z", {"plain zsh"}),
    ],
)
def test_what_may_come_next(words: list[str], incomplete: str, found: set[str]) -> None:
    assert completed(words, incomplete) == found


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    script = capsys.readouterr().out
    assert f"_LEGO_RAY_COMPLETE={shell}_complete" in script
    assert "lego-ray" in script


def test_bash_itself_completes_a_method(tmp_path: Path) -> None:
    """The program is the one installed; a script of its name stands for it on the PATH."""
    bash = shutil.which("bash")
    assert bash
    program = tmp_path / "lego-ray"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{RUN}" "$@"\n')
    program.chmod(0o755)
    script = BashComplete(cli, {}, "lego-ray", "_LEGO_RAY_COMPLETE").source()
    ask = (
        "COMP_WORDS=(lego-ray merge zoo --method dare_t); COMP_CWORD=4;"
        '_lego_ray_completion lego-ray; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", f"{script}\n{ask}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["dare_ties"]


RUN = "import sys; sys.argv[0] = 'lego-ray'; from lego_ray.cli.main import main; main()"
