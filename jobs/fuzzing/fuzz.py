"""Coverage-guided fuzzing of what reads others' files and words, with atheris.

`python -m jobs.fuzzing.fuzz [--seconds N] TARGET` starts from the corpus in
tests/hostile/corpus/TARGET, and leaves each input there that gives an error of no family of ours,
or takes too long or too much memory. A test runs the whole corpus, so a finding fails it until it
is fixed. Prints executions and findings. Needs `pip install 'lego-ray[fuzz]'`; atheris has no
wheels for macOS.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[2] / "tests" / "hostile" / "corpus"
# Rooms whose branches guide the search; instrumented as they are imported.
ROOMS = ("lego_ray", "jobs.fuzzing")
SLOWEST_SECONDS = 20
MOST_MIB = 3072


def main() -> None:
    """Fuzzes one target, restarting after each finding until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        _inside(given.target, Path(given.inside), given.seconds)
        return
    found: set[Path] = set()
    runs, end = 0, time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as folder:
        grown = Path(folder)
        while (left := int(end - time.monotonic())) > 0:
            command = [sys.executable, "-m", "jobs.fuzzing.fuzz", given.target, "--inside", folder]
            subprocess.run([*command, "--seconds", str(left)], check=False, env=_environment())
            counted = grown / "runs"
            runs += int(counted.read_text()) if counted.exists() else 0
            counted.unlink(missing_ok=True)
            kept = {_keep(given.target, crash) for crash in grown.glob("found-*")}
            if not kept - found and time.monotonic() < end - 1:
                break  # it cannot be started, or stops at what it found before
            found |= kept
    print(f"{given.target}: {runs:,} executions, {len(found)} findings", flush=True)
    for path in sorted(found):
        print(f"  {path}")


def _environment() -> dict[str, str]:
    # Names sort and hash the same in every process, so a finding is found again.
    return {**os.environ, "PYTHONHASHSEED": "0"}


def _keep(target: str, crash: Path) -> Path:
    """Moves a finding into the corpus, under a name of its content."""
    data = crash.read_bytes()
    crash.unlink()
    place = CORPUS / target / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def _inside(target: str, grown: Path, seconds: int) -> None:
    """The process that fuzzes, and ends at its first finding."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(ROOMS)):
        targets = importlib.import_module("jobs.fuzzing.targets")
    count = 0

    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % 100 == 0:
            (grown / "runs").write_text(str(count))
        try:
            targets.run(target, data)
        except Exception:
            traceback.print_exc()
            (grown / "runs").write_text(str(count))
            raise

    seeds = CORPUS / target
    seeds.mkdir(parents=True, exist_ok=True)
    (grown / "corpus").mkdir(exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST_SECONDS}",
        f"-report_slow_units={SLOWEST_SECONDS}",
        f"-rss_limit_mb={MOST_MIB}",
        "-max_len=4096",
        f"-artifact_prefix={grown}/found-",
        "-print_final_stats=1",
        str(grown / "corpus"),
        str(seeds),
    ]
    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
