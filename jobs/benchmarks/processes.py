"""What Linux tells of a process and all below it: names, memory, and Ray's shared memory and spills.

A process may end at any moment between being listed and being read, and names may be any bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = "/dev/shm/"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process, each page that several share counted by its share (PSS).

    Attributes:
        own_bytes: Its heap, stacks and files such as libraries.
        shared_bytes: Shared memory it has mapped, such as Ray's object store.
    """

    own_bytes: int = 0
    shared_bytes: int = 0


def tree(root: int) -> set[int]:
    """A process and all below it; Ray's workers are children of its raylet, a child of the driver."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := _read(folder / "stat")):
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, grown = {root}, True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(below)
        found |= below
    return found


def arguments(pid: int) -> list[str]:
    """Its command line, which Ray's workers overwrite with `ray::` and what they do; empty if ended."""
    line = _read(Path(f"/proc/{pid}/cmdline"))
    return line.split("\0") if line else []


def title(pid: int) -> str:
    """The first of its arguments; empty if it has ended."""
    return next(iter(arguments(pid)), "")


def memory(pid: int) -> Memory:
    """Its memory now; none if it has ended."""
    rollup = _read(Path(f"/proc/{pid}/smaps_rollup"))
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in rollup.splitlines()[1:])
    }
    shared = kilobytes.get("Pss_Shmem", 0)
    return Memory(1024 * (kilobytes.get("Pss", 0) - shared), 1024 * shared)


def held_shared_memory(pid: int) -> int:
    """Bytes in use of the files in shared memory that a process holds open, named or not.

    Ray's raylet maps one file as large as the object store may get, so its blocks are what counts.
    """
    total = 0
    for handle in _listed(Path(f"/proc/{pid}/fd")):
        try:
            if str(handle.readlink()).startswith(SHARED_MEMORY):
                total += handle.stat().st_blocks * 512
        except OSError:  # closed while we looked
            continue
    return total


def spilled(raylet: list[str]) -> int:
    """Bytes that a Ray has on disk because its object store was full.

    Args:
        raylet: Arguments of its raylet, which name a socket in the session's folder.
    """
    option = "--raylet_socket_name="
    sockets = [word.removeprefix(option) for word in raylet if word.startswith(option)]
    total = 0
    for socket in sockets:
        for folder in _listed(Path(socket).parents[1]):
            for file in _listed(folder) if folder.name.startswith("ray_spilled_objects_") else ():
                try:
                    total += file.stat().st_size
                except OSError:  # deleted while we looked
                    continue
    return total


def _read(file: Path) -> str:
    """A file of /proc; empty if its process has ended, or is not ours to look at."""
    try:
        return os.fsdecode(file.read_bytes())
    except OSError:
        return ""


def _listed(folder: Path) -> list[Path]:
    """What a folder holds; nothing if it is gone, as with its process, or not ours to look at."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
