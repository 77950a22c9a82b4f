"""Sources that change at a moment a test chooses, and a runner that lets them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from lego_ray.runners.base import Runner
from lego_ray.runners.inline import InlineRunner
from tests.zoo import CONFIG, WEIGHTS, write_adapter

Change = Callable[[Path], None]


class ChangingRunner:
    """Another runner that does something before it runs tasks, or after a number of their results.

    Args:
        changes: What to do at each of the first runs, in order; after that nothing.
        after: Results that are handed on first.
        inner: What runs the tasks.
    """

    def __init__(
        self, *changes: Callable[[], None], after: int = 0, inner: Runner | None = None
    ) -> None:
        self._changes = list(changes)
        self._after = after
        self._inner = inner or InlineRunner()
        self.name = self._inner.name
        self.start, self.stop, self.close = self._inner.start, self._inner.stop, self._inner.close

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields what the other runner yields."""
        if not self._after:
            self._change()
        for number, result in enumerate(self._inner.run(tasks), 1):
            yield result
            if number == self._after:
                self._change()

    def _change(self) -> None:
        if self._changes:
            self._changes.pop(0)()


def replaced_unseen(adapter: Path) -> None:
    """Both files by others of the same sizes and times, as an archive that is unpacked has them."""
    before = {name: (adapter / name).stat() for name in (WEIGHTS, CONFIG)}
    replaced(adapter, alpha=4)
    for name, was in before.items():
        assert (adapter / name).stat().st_size == was.st_size
        os.utime(adapter / name, ns=(was.st_atime_ns, was.st_mtime_ns))


def replaced(adapter: Path, seed: int = 99, **options: Any) -> None:
    """Both files by new ones of the same layout, each renamed into its place."""
    made = write_adapter(adapter.parent.parent / f"new-{seed}-{adapter.name}", seed=seed, **options)
    for name in (WEIGHTS, CONFIG):
        (made / name).replace(adapter / name)
    shutil.rmtree(made)


def weights_replaced(adapter: Path) -> None:
    """The weights alone by others of the same layout."""
    config = (adapter / CONFIG).read_bytes(), (adapter / CONFIG).stat()
    replaced(adapter)
    (adapter / CONFIG).write_bytes(config[0])
    os.utime(adapter / CONFIG, ns=(config[1].st_atime_ns, config[1].st_mtime_ns))


def rewritten(adapter: Path) -> None:
    """One byte in the middle of the tensors, in place."""
    with (adapter / WEIGHTS).open("r+b") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
        middle = (header + (adapter / WEIGHTS).stat().st_size) // 2
        file.seek(middle)
        [was] = file.read(1)
        file.seek(middle)
        file.write(bytes([was ^ 1]))


def longer_header(adapter: Path) -> None:
    """Other weights, behind a header that moves them."""
    tensors = {name: tensor * 2 for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, adapter / WEIGHTS, {"format": "pt", "note": "x" * 5000})


def alpha_changed(adapter: Path) -> None:
    """The configuration alone."""
    fields = json.loads((adapter / CONFIG).read_text())
    fields["lora_alpha"] *= 5
    (adapter / CONFIG).write_text(json.dumps(fields))


def truncated(adapter: Path) -> None:
    """Weights cut short, as while they are copied."""
    os.truncate(adapter / WEIGHTS, (adapter / WEIGHTS).stat().st_size - 100)


def gone(adapter: Path) -> None:
    """The whole adapter deleted."""
    shutil.rmtree(adapter)


def refused_now(adapter: Path) -> None:
    """A configuration of a kind that is not merged."""
    fields = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**fields, "use_dora": True}))


def rights_changed(adapter: Path) -> None:
    """Other rights, the same files."""
    for name in (WEIGHTS, CONFIG):
        (adapter / name).chmod(0o600)


def touched(adapter: Path) -> None:
    """Other times, the same bytes."""
    for name in (WEIGHTS, CONFIG):
        later = (adapter / name).stat().st_mtime_ns + 10**9
        os.utime(adapter / name, ns=(later, later))
