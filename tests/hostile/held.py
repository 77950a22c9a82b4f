"""What every hostile input is held to."""

from __future__ import annotations

import contextlib
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

from lego_ray.errors import LegoRayError
from lego_ray.output.checkpoints.run_folder import UnreadableCheckpoint

# Planted in whatever may hold a secret; the corpus has it too.
SECRET = "hunter2"
# An error is for people: with three names of a thousand characters it is long enough.
LONGEST = 6000


def check_error(error: LegoRayError | UnreadableCheckpoint | None) -> None:
    """Passes an error that can be shown, sent and kept, and tells no secret."""
    if error is None or isinstance(error, UnreadableCheckpoint):
        return
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert len(str(error)) < LONGEST
    assert error.hint.endswith((".", "?", "..."))
    assert SECRET not in str(error) + repr(error)


@contextlib.contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Lets this process take so much more address space and no more: an allocation beyond it fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: bytes of files, where links lead, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = None
    return found
