"""Which keys a store takes."""

from __future__ import annotations

from lego_ray.errors import StorageError


def check_key(where: str, key: str) -> None:
    """Refuses keys that could reach outside a root, or that name no one object on every store.

    Args:
        where: The root's URI, for the error.
        key: Path below the root, with `/` between parts.

    Raises:
        StorageError: If the key is empty, absolute, has an empty, `.` or `..` part, or a NUL.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise StorageError(
            where,
            f"the key {key!r} is refused",
            "Use parts that are not empty, '.' or '..', joined by single slashes.",
        )
