"""Which files of a published merge are missing or damaged, as one listing shows it.

People may edit the model card, so a card of another size is not damage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lego_ray.output.publish_record import CARD
from lego_ray.storage.base import ObjectInfo

EDITED = f"{CARD} was edited after the merge was published"
AGAIN = "Delete it and run the same merge again: that writes it again."


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that is not what the manifest says.

    Attributes:
        key: The file.
        problem: What is wrong with it.
        is_missing: Whether it is not there, so that the same merge writes it again.
    """

    key: str
    problem: str
    is_missing: bool

    def as_json(self) -> dict[str, str]:
        """The entry of a record."""
        return {"file": self.key, "problem": self.problem}


def damaged_files(
    manifest: Mapping[str, Any], found: Mapping[str, ObjectInfo]
) -> tuple[Damaged, ...]:
    """The files that are missing, or have another size than the manifest says, by name.

    Args:
        manifest: The merge's.
        found: What is at the output, by key.
    """
    damaged = []
    for key, expected in sorted(manifest["files"].items()):
        if key not in found:
            damaged.append(Damaged(key, "it is missing", is_missing=True))
        elif key != CARD and found[key].size != expected["bytes"]:
            problem = f"it has {found[key].size} bytes, the manifest says {expected['bytes']}"
            damaged.append(Damaged(key, problem, is_missing=False))
    return tuple(damaged)


def is_edited_card(manifest: Mapping[str, Any], key: str, data: bytes) -> bool:
    """Whether a file is the model card, with another text than it was published with.

    Args:
        manifest: The merge's.
        key: The file.
        data: Its bytes.
    """
    listed = manifest["files"].get(CARD)
    return key == CARD and bool(listed) and hashlib.sha256(data).hexdigest() != listed["sha256"]
