"""What a process listens on, as Linux tells it."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address, ip_address
from pathlib import Path

LISTENS = "0A"


def listening(pid: int) -> list[str]:
    """Addresses of the TCP sockets a process listens on; none if it has ended."""
    inodes = set()
    try:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(handle.readlink()))
            except OSError:  # closed while we looked
                continue
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return []
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [_address(r[1]) for r in rows if r[3] == LISTENS and f"socket:[{r[9]}]" in inodes]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    found = ip_address(address)
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def _address(field: str) -> str:
    """An address of the kernel's tables, whose words are in the machine's own order."""
    digits = field.partition(":")[0]
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
