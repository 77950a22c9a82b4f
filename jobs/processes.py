"""What Linux tells of a process and all below it: names, memory, and Ray's shared memory and spills."""

from __future__ import annotations

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
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended while we looked
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, grown = {root}, True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(below)
        found |= below
    return found


def arguments(pid: int) -> list[str]:
    """Its command line, which Ray's workers overwrite with `ray::` and what they do; empty if ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def memory(pid: int) -> Memory:
    """Its memory now; none if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return Memory()
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
    for handle in Path(f"/proc/{pid}/fd").glob("*"):
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
        for file in Path(socket).parents[1].glob("ray_spilled_objects_*/*"):
            try:
                total += file.stat().st_size
            except OSError:  # deleted while we looked
                continue
    return total
