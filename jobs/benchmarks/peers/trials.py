"""One tool asked for one merge: what came of it, and what it cost."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.benchmarks import processes
from jobs.benchmarks.peers.outputs import relative_error, updates_of
from jobs.benchmarks.peers.zoos import Weights

# float32 factors, and sums of ten products in another order.
EXACT = 1e-5


@dataclass(frozen=True)
class Trial:
    """What one tool did.

    Attributes:
        outcome: `worked`: an adapter was written; `failed`: the command exited with another status than
            0; `nothing`: it exited with 0 and wrote none of the modules; `no method`: the tool has none.
        error: The command's last line of error, without paths; None unless it failed.
        relative_error: Frobenius norm of (its update - the exact sum) over that of the sum, float64.
        seconds: Wall time of the command, start-up included.
        cpu_seconds: Processor time of the command and the processes it waited for.
        peak_bytes: Most resident memory of any one of those processes.
        more: Facts of some trials by name.
    """

    outcome: str
    error: str | None = None
    relative_error: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Fields that are known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


def tried(command: str | None, output: Path, wanted: Weights) -> Trial:
    """Runs a command and reads what it wrote.

    Args:
        command: For the shell; None if the tool has no such method.
        output: Where it writes.
        wanted: The exact sum.
    """
    if command is None:
        return Trial("no method")
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        words = ["bash", "-c", command]
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        peak = 0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, *map(_peak_bytes, processes.tree(process.pid)))
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        usage = ended[2]
        costs: dict[str, Any] = {
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_bytes": peak,
        }
        said.seek(0)
        text = said.read()
    if process.returncode:
        return Trial("failed", error=last_error(text))
    got = updates_of(written(output), list(wanted))
    if not got:
        return Trial("nothing", **costs)
    more = {"says_dora": "dora" in text.lower()}
    return Trial("worked", relative_error=relative_error(got, wanted), more=more, **costs)


def _peak_bytes(pid: int) -> int:
    """Most resident memory of a process so far.

    `ru_maxrss` would not do: it begins at the memory of the process that started the command.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0
    return 1024 * int(found[1]) if found else 0


def written(output: Path) -> Path:
    """The adapter at an output, as each tool names it."""
    if (output / "merged").is_dir():  # PEFT's folder of an adapter with a name
        return output / "merged"
    file = output.with_suffix(".safetensors")
    return file if file.exists() else output


def last_error(text: str) -> str:
    """The last line that names an error, without the paths of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|error)\b", line)]
    line = (errors or lines)[-1]
    return re.sub(r"/[\w./-]*/", ".../", line)[:300]
