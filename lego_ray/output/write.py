"""Writes a merged adapter where it was asked for: create-only, the file that makes it one last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lego_ray.errors import AlreadyExists, MalformedAdapter, ObjectNotFound, OutputExists
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.output.damage import AGAIN, damaged_files
from lego_ray.output.differing import what_differs
from lego_ray.output.manifest import (
    MANIFEST_KEY,
    marker_of,
    parse_manifest,
    read_bytes,
)
from lego_ray.output.publish_record import CARD
from lego_ray.storage.base import ObjectInfo, Store, list_readable

if TYPE_CHECKING:
    from lego_ray.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class There:
    """A merge whose manifest is at an output.

    Attributes:
        manifest: The manifest.
        missing: Files that it lists and that are not there.
    """

    manifest: dict[str, Any]
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no file is missing."""
        return not self.missing

    @property
    def lost(self) -> tuple[str, ...]:
        """Files that were deleted after the merge was published; none if it never was."""
        return () if marker_of(self.manifest) in self.missing else self.missing


def manifest_at(store: Store) -> dict[str, Any] | None:
    """The manifest at an output, whichever merge it is of and whether it is complete or not.

    Returns:
        None if there is none that this release can read.
    """
    try:
        return parse_manifest(read_bytes(store), store.uri)
    except (ObjectNotFound, MalformedAdapter):
        return None


def written_at(store: Store) -> int:
    """When the manifest at an output was written, in nanoseconds; 0 if that is not on this machine."""
    if not store.place.is_local:
        return 0
    try:
        written = store.stat(MANIFEST_KEY).modified_at
    except ObjectNotFound:
        return 0
    return int(written.timestamp() * 1e9) if written else 0


def is_merge_of(manifest: Mapping[str, Any], plan: Plan, requested: str = "") -> bool:
    """Whether a manifest is of a plan's merge, made by this release or an earlier one.

    Args:
        manifest: The manifest.
        plan: The plan, its adapters by the ids that tell their contents apart.
        requested: Digest of the plan as it was asked for, if that was another.
    """
    named = {manifest["merge_id"], manifest.get("requested_plan")}
    if named & {plan.digest, plan.former, *plan.earlier, requested} - {""}:
        return True
    # Earlier releases named a merge after the marks its sources had then as well.
    marks = {s["uri"]: s["version"] for s in manifest["sources"] if "version" in s}
    if not plan.former:
        return False
    from lego_ray.planning.planner import former_digest  # with torch, which `publish` goes without

    return former_digest(plan, marks) in named


def merge_there(store: Store, plan: Plan) -> There | None:
    """A plan's merge as far as it is published, or None if the way is free.

    Args:
        store: The output.
        plan: The plan as it was asked for.

    Raises:
        OutputExists: If something else is there, or a file of the merge is damaged.
    """
    return merge_there_by_digest(store, plan.digest, plan.marker, plan=plan)


def merge_there_by_digest(
    store: Store,
    digest: str,
    marker: str,
    *,
    option: str = "--output",
    plan: Plan | None = None,
) -> There | None:
    """A merge as far as it is published, or None if the way is free. Lists once, reads the manifest.

    Args:
        store: The output.
        digest: The merge's, or that of its plan as it was asked for.
        marker: Name of the file that is written last.
        option: What the output was given by, for errors.
        plan: The plan, by whose former digests it counts as well.

    Raises:
        OutputExists: If something else is there, or a file of the merge has another size than it must.
    """
    found = listed_output(store, option)
    if MANIFEST_KEY not in found:
        if marker in found or CONFIG_NAME in found:
            raise OutputExists(
                store.uri,
                "it holds an adapter that lego-ray did not write",
                f"Choose another {option}; outputs are never overwritten.",
            )
        return None
    manifest = parse_manifest(read_bytes(store), store.uri)
    named = (manifest["merge_id"], manifest.get("requested_plan"))
    if digest not in named and not (plan and is_merge_of(manifest, plan)):
        differs = (
            "the options or the adapters differ" if plan is None else what_differs(manifest, plan)
        )
        raise OutputExists(
            store.uri,
            f"it holds the merge of another plan, {manifest['merge_id'][:12]}, and this one is "
            f"{digest[:12]}: {differs}",
            f"Choose another {option}, or delete that one first.",
        )
    damaged = damaged_files(manifest, found)
    for each in damaged:
        if not each.is_missing:
            raise OutputExists(f"{store.uri}/{each.key}", f"{each.problem}: it is damaged", AGAIN)
    return There(manifest, tuple(each.key for each in damaged))


def listed_output(store: Store, option: str = "--output") -> dict[str, ObjectInfo]:
    """What is at an output, by key.

    Args:
        store: The output.
        option: What it was given by, for errors.

    Raises:
        OutputExists: If it is a file.
    """
    try:
        return {info.key: info for info in list_readable(store)}
    except ObjectNotFound as error:
        if not store.place.is_local:
            raise
        why = "it is a file, and" if Path(store.uri).is_file() else f"{error.problem};"
        problem = f"{why} what is written there is a directory of files"
        raise OutputExists(store.uri, problem, f"Choose another {option}.") from error


def publish(
    store: Store, files: Mapping[str, bytes], marker: str, *, option: str = "--output"
) -> bool:
    """Writes an adapter's files, the one that makes it an adapter last.

    The manifest comes first: from then on the output says whose it is, and which bytes belong to it.

    A file that another run of the same plan wrote, before or at the same time, is taken as it is if
    it has the same bytes. So is a manifest of the same files, which another release may have written,
    and beside a manifest a model card, which someone may have edited.

    Args:
        store: The output.
        files: Bytes by key.
        marker: The one to write last.
        option: What the output was given by, for errors.

    Returns:
        Whether this call wrote that one, which of any number of runs only one does.

    Raises:
        OutputExists: If a file is there with other bytes.
    """
    mine = has_manifest = False
    for key in sorted(files, key=lambda k: (k == marker, k != MANIFEST_KEY, k)):
        try:
            store.create(key, files[key])
            mine = key == marker
        except AlreadyExists as error:
            if key == CARD and has_manifest:
                continue
            if _sha256(store, key) != hashlib.sha256(files[key]).hexdigest() and not (
                key == MANIFEST_KEY and _lists(manifest_at(store), files)
            ):
                raise OutputExists(
                    store.uri,
                    f"{key} already exists, with other bytes",
                    f"Choose another {option}, or delete that file and run the same command again.",
                ) from error
            has_manifest = has_manifest or key == MANIFEST_KEY
    return mine


def _lists(manifest: Mapping[str, Any] | None, files: Mapping[str, bytes]) -> bool:
    """Whether a manifest is of the same merge as some files, by their hashes; the card's apart."""
    own = parse_manifest(files[MANIFEST_KEY], MANIFEST_KEY) if MANIFEST_KEY in files else None
    if manifest is None or own is None or manifest["merge_id"] != own["merge_id"]:
        return False
    listed, wanted = (
        {key: entry["sha256"] for key, entry in each["files"].items() if key != CARD}
        for each in (manifest, own)
    )
    return listed == wanted


def _sha256(store: Store, key: str) -> str:
    try:
        return hashlib.sha256(store.read(key)).hexdigest()
    except ObjectNotFound:  # deleted since: say so rather than overwrite
        return ""
