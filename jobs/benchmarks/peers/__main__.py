"""The same merges by lego-ray, PEFT, mergekit and kohya's scripts: what works, how well, what it costs.

`python -m jobs.benchmarks.peers` runs lego-ray and PEFT. `--mergekit DIR` adds mergekit, from the `bin`
folder of the virtual environment that has it. `--kohya DIR --kohya-python PYTHON` adds the scripts of a
checkout of kohya-ss/sd-scripts. Every merge is a separate process. Results go to `--out` as `peers.json`
and `peers.md`; with `--only` or `--ask`, the other results there are kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from jobs.benchmarks.peers import outputs, zoos
from jobs.benchmarks.peers.table import TITLES, table
from jobs.benchmarks.peers.tools import Tool, tools
from jobs.benchmarks.peers.trials import EXACT, Trial, tried, written
from tests import ceph_gateway

SAMPLES = Path(__file__).parents[3] / "tests" / "fixtures" / "zoo"


def main() -> None:
    """Writes the zoos, asks each tool for each merge, and writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=SAMPLES, help="PEFT adapters of MiniLM")
    parser.add_argument("--rank", type=int, default=8, help="of the merges near the sum")
    parser.add_argument(
        "--many", type=int, default=100, help="adapters of the larger zoo; 0 for none"
    )
    parser.add_argument("--mergekit", type=Path, help="bin folder of mergekit's environment")
    parser.add_argument("--kohya", type=Path, help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument(
        "--kohya-python", type=Path, help="an interpreter that has its requirements"
    )
    parser.add_argument("--only", action="append", help="run this tool only; may be repeated")
    parser.add_argument("--ask", action="append", help="ask for this only; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    file = given.out / "peers.json"
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.only or given.ask):
        file.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name, _bucket() as bucket:
        folder = Path(name)
        facts = _write_zoos(folder, given)
        for tool in tools(folder, given.mergekit, given.kohya, given.kohya_python):
            if given.only and tool.name not in given.only:
                continue
            trials: dict[str, Any] = {"version": _version(tool, given)}
            for ask, trial in _trials(tool, folder, given, bucket):
                trials[ask] = trial.as_json()
                print(f"{tool.name}, {ask}: {json.dumps(trials[ask])}", flush=True)
                _keep(file, facts, tool.name, trials)
    print((given.out / "peers.md").read_text())


def _keep(file: Path, facts: dict[str, Any], tool: str, trials: dict[str, Any]) -> None:
    """Writes the trials of one tool beside those of the others, which other runs may be writing."""
    others = json.loads(file.read_text())["tools"] if file.exists() else {}
    by_name = {**others, tool: {**others.get(tool, {}), **trials}}
    figures = {**facts, "tools": {name: by_name[name] for name in TITLES if name in by_name}}
    atomic = file.with_suffix(f".{os.getpid()}")
    atomic.write_text(json.dumps(figures, indent=1) + "\n")
    atomic.replace(file)
    file.with_suffix(".md").write_text(table(figures))


@contextmanager
def _bucket() -> Iterator[str | None]:
    """A bucket on a Ceph gateway of this machine, in the environment; None without its programs."""
    if ceph_gateway.missing():
        yield None
        return
    with ceph_gateway.one_server() as server:
        bucket = server.bucket()
        server.upload(SAMPLES, bucket, "zoo/")
        yield bucket


def _write_zoos(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    base = zoos.base_weights()
    zoos.write_bases(folder, base)
    samples = zoos.samples(given.zoo)
    made = {
        "samples": samples,
        "missing": zoos.without_some_modules(samples),
        "dora": zoos.with_a_dora(samples, base),
        "many": zoos.many(samples, given.many),
    }
    facts: dict[str, Any] = {}
    for name, adapters in made.items():
        zoos.write_peft(folder / "peft" / name, adapters, folder / "bert", llama=False)
        zoos.write_peft(folder / "llama-names" / name, adapters, folder / "llama", llama=True)
        zoos.write_kohya(folder / "kohya" / name, adapters)
        if adapters:
            wanted = outputs.total(each.updates(base) for each in adapters)
            torch.save(wanted, folder / f"{name}.pt")
    wanted = torch.load(folder / "samples.pt")
    facts["adapters"] = len(samples)
    facts["ranks"] = sorted({each.rank for each in samples})
    facts["rank"] = given.rank
    facts["many"] = given.many
    facts["least_error"] = outputs.least_error(wanted, given.rank)
    rank = sum(each.rank for each in made["dora"])
    facts["dora"] = {
        "rank": rank,
        "least_error": outputs.least_error(torch.load(folder / "dora.pt"), rank),
    }
    facts["machine"] = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    return facts


def _sources(tool: Tool, folder: Path, zoo: str) -> list[str]:
    below = {"peft": "peft", "llama": "llama-names", "kohya": "kohya"}[tool.spelling]
    return [str(path) for path in sorted((folder / below / zoo).iterdir())]


def _trials(
    tool: Tool, folder: Path, given: argparse.Namespace, bucket: str | None
) -> Iterator[tuple[str, Trial]]:
    def ask(name: str, what: str, zoo: str, rank: int, backwards: bool = False) -> Trial:
        sources = _sources(tool, folder, zoo)[:: -1 if backwards else 1]
        output = folder / "out" / tool.name / name
        output.parent.mkdir(parents=True, exist_ok=True)
        return tried(
            tool.command(what, sources, output, rank), output, torch.load(folder / f"{zoo}.pt")
        )

    def ranks(zoo: str) -> int:
        return sum(each.rank for each in zoos.samples(folder / "peft" / zoo))

    asks: dict[str, Callable[[], Trial]] = {
        "nearest": lambda: ask("nearest", "nearest", "samples", given.rank),
        "sum": lambda: _with_sources_named(
            ask("sum", "sum", "samples", ranks("samples")), folder, tool, given
        ),
        "s3": lambda: _from_s3(tool, folder, given, bucket),
        "dora": lambda: _with_left_out(ask("dora", "sum", "dora", ranks("dora")), folder, tool),
        "ties": lambda: ask("ties", "ties", "samples", given.rank),
        "missing": lambda: ask("missing", "sum", "missing", ranks("missing")),
        "backwards": lambda: _with_same_bytes(
            ask("backwards", "nearest", "samples", given.rank, backwards=True), folder, tool
        ),
        "many": lambda: ask("many", "nearest", "many", given.rank),
    }
    if not bucket:
        del asks["s3"]
    if not given.many or tool.name == "mergekit":  # it would write a whole model for each
        del asks["many"]
    for name, trial in asks.items():
        if not given.ask or name in given.ask:
            yield name, trial()


def _with_sources_named(trial: Trial, folder: Path, tool: Tool, given: argparse.Namespace) -> Trial:
    """Counts the sources in the output; those of mergekit are in the model that it extracts from."""
    at = folder / "out" / tool.name
    if trial.outcome == "worked":
        names = [each.name for each in zoos.samples(given.zoo)]
        places = (written(at / "sum"), at / "sum-model")
        trial.more["sources_named"] = max(outputs.sources_named(each, names) for each in places)
    return trial


def _with_left_out(trial: Trial, folder: Path, tool: Tool) -> Trial:
    """Whether the output is the exact sum of the other adapters."""
    if trial.outcome == "worked":
        others = torch.load(folder / "samples.pt")
        got = outputs.updates_of(written(folder / "out" / tool.name / "dora"), list(others))
        trial.more["left_out"] = outputs.relative_error(got, others) < EXACT
    return trial


def _with_same_bytes(trial: Trial, folder: Path, tool: Tool) -> Trial:
    if trial.outcome == "worked":
        at = folder / "out" / tool.name
        trial.more["same_bytes"] = _weights(at / "nearest") == _weights(at / "backwards")
    return trial


def _from_s3(tool: Tool, folder: Path, given: argparse.Namespace, bucket: str | None) -> Trial:
    """The samples under their own names, in a bucket; kohya's is a file that is not there: none is."""
    names = [each.name for each in zoos.samples(given.zoo)]
    end = ".safetensors" if tool.spelling == "kohya" else ""
    sources = [f"s3://{bucket}/zoo/{name}{end}" for name in names]
    output = folder / "out" / tool.name / "s3"
    wanted = torch.load(folder / "samples.pt")
    return tried(tool.command("nearest", sources, output, given.rank), output, wanted)


def _weights(output: Path) -> bytes:
    at = written(output)
    return (at if at.is_file() else at / "adapter_model.safetensors").read_bytes()


def _version(tool: Tool, given: argparse.Namespace) -> str:
    if tool.name == "kohya":
        words = ["git", "-C", str(given.kohya), "rev-parse", "--short", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"
    if tool.name == "mergekit":
        code = "import importlib.metadata as m; print(m.version('mergekit'))"
        python = str(given.mergekit / "python")
        return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    return importlib.metadata.version(tool.name.lower())


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # all is local; a look at the Hub would cost the peers time
    main()
