"""A command killed anywhere, run again, must end as one that was never killed.

`python -m jobs.kills` runs each command once to count the calls by which it changes files (of Python and
of native libraries, with a small library in front of libc; needs Linux and a C compiler). Then, for each
call: from the same state, the command is ended by SIGKILL before that call and run again to its end, and
every byte of every output and every row of the catalog is compared with those of the run that was not
killed. Figures go to `<out>/kills.json`, as a table to `<out>/kills.md`. Fails if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jobs.kills.preload import forked, with_library

# Columns that say when something was done, or with which releases.
VOLATILE = {"created_at", "seconds", "stages", "scanned_at", "found_at", "versions"}
# What a killed process leaves until a later run sweeps it.
LEFT = (".lego-ray-probe-", ".lego-ray-tmp-", "look-")
# What a refresh keeps by inodes and times of files, of which each run has its own.
KEPT = ("/.lego-ray/unchanged/", "/.lego-ray/readings/")


def main() -> None:
    """Kills each command everywhere, writes the figures, and prints them as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", help="which commands; all unless given")
    parser.add_argument("--every", type=int, default=1, help="of so many calls, kill before one")
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    words = [
        "-m",
        "jobs.kills",
        *given.scenes,
        "--every",
        f"{given.every}",
        "--out",
        f"{given.out}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        with_library(Path(folder), words)
        figures = run(Path(folder), given.scenes, given.every)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "kills.json").write_text(json.dumps(figures, indent=1) + "\n")
    (given.out / "kills.md").write_text(table(figures))
    print(json.dumps(figures))
    wrong = [line for each in figures["scenes"].values() for line in each["wrong"]]
    if wrong:
        raise SystemExit("\n".join(wrong))


def run(folder: Path, names: list[str], every: int = 1) -> dict[str, Any]:
    """Kills commands everywhere.

    Args:
        folder: An empty directory to work in.
        names: Which; empty for all.
        every: Of so many calls, the command is killed before one.
    """
    # Imported here, once, so that forked processes start with everything loaded.
    import torch

    from jobs.kills.scenes import SCENES

    torch.set_num_threads(1)
    scenes = {name: _kill(folder, name, every) for name in names or SCENES}
    return {"kills": sum(each["kills"] for each in scenes.values()), "scenes": scenes}


def _kill(folder: Path, name: str, every: int) -> dict[str, Any]:
    from jobs.kills.scenes import SCENES

    scene = SCENES[name]
    before, now = folder / f"before-{name}", folder / "now"
    _restored(None, now)
    forked(scene.prepare, now, below=now)
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(now, before)
    calls, _ = forked(scene.command, now, below=now)
    _, quiet = forked(snapshot, now, below=now)
    wrong: list[str] = []
    kills = left = 0
    for at in range(1, calls + 1, every):
        _restored(before, now)
        seen, _ = forked(scene.command, now, below=now, at=at)
        if seen:  # threads: it made fewer calls this time
            continue
        kills += 1
        scene.between(now)
        where = f"{name}, killed before call {at} of {calls}"
        try:
            forked(scene.command, now, below=now)
        except RuntimeError as error:
            wrong.append(f"{where}: the second run failed: {error}")
            continue
        _, found = forked(snapshot, now, below=now)
        left += len(found["left"])
        wrong += [f"{where}: {line}" for line in differences(quiet, found)]
    print(
        f"{name}: {kills} kills at {calls} calls, {len(wrong)} wrong, {left} left over", flush=True
    )
    return {"calls": calls, "kills": kills, "left_over": left, "wrong": wrong}


def _restored(before: Path | None, now: Path) -> None:
    shutil.rmtree(now, ignore_errors=True)
    if before is None:
        now.mkdir()
    else:
        shutil.copytree(before, now)


def snapshot(root: Path) -> dict[str, Any]:
    """Every file below a directory by its hash, and every row of the catalog in it."""
    import lego_ray

    catalog = root / "catalog"
    files, left = {}, []
    for path in sorted(root.rglob("*")):
        key = str(path.relative_to(root))
        if (
            not path.is_file()
            or path.is_relative_to(catalog)
            or any(k in path.as_posix() for k in KEPT)
        ):
            continue
        if path.name.startswith(LEFT):
            left.append(key)
        else:
            files[key] = hashlib.sha256(_comparable(path)).hexdigest()
    found: dict[str, Any] = {"files": files, "left": left, "rows": {}, "problems": []}
    if catalog.exists():
        found["rows"] = rows(catalog)
        checked = lego_ray.check_catalog(catalog, deep=True)
        found["problems"] = [f"{each['where']}: {each['problem']}" for each in checked["problems"]]
    return found


def _comparable(path: Path) -> bytes:
    """A file's bytes; those of a bake's manifest without when and where its base model was written."""
    from lego_ray.baking.state import MANIFEST, but_for_marks

    data = path.read_bytes()
    if path.name != MANIFEST:
        return data
    return json.dumps(but_for_marks(json.loads(data)), sort_keys=True).encode()


def rows(catalog: Path) -> dict[str, list[str]]:
    """Every row of every table, details of merges that were never published included, sorted."""
    from lego_ray.catalog.opening import open_catalog

    opened = open_catalog(catalog)
    found = {}
    for table in opened.tables():
        read = opened.whole(table).to_table().to_pylist()
        for row in read:
            if row.get("mark"):  # without the time of a file's last status change
                row["mark"] = row["mark"].partition(" ")[0]
        found[table] = sorted(
            json.dumps({k: v for k, v in row.items() if k not in VOLATILE}, default=str)
            for row in read
        )
    return found


def differences(quiet: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as after a run that was not killed."""
    wrong = list(found["problems"])
    for kind in ("files", "rows"):
        for key in sorted({*quiet[kind], *found[kind]}):
            if quiet[kind].get(key) != found[kind].get(key):
                known, there = key in quiet[kind], key in found[kind]
                how = "differs" if known and there else "is missing" if known else "is left over"
                wrong.append(f"{key} {how}")
    return wrong


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| command | calls that change files | kills | wrong | left over |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {each['calls']} | {each['kills']} | {len(each['wrong'])} | {each['left_over']} |"
        for name, each in figures["scenes"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
