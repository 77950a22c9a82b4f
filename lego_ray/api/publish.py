"""Copies a published merge to where it is used: a directory, S3, the Hub. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from lego_ray import journal
from lego_ray.arguments import checked
from lego_ray.errors import InvalidOption, ObjectNotFound, OutputExists
from lego_ray.output.checkpoints.run_folder import folder_uri, read_marker
from lego_ray.output.damage import EDITED, is_edited_card
from lego_ray.output.hub_push import push
from lego_ray.output.leaving import for_elsewhere
from lego_ray.output.manifest import MANIFEST_KEY, marker_of, read_bytes
from lego_ray.output.publish_record import CARD, PublishRecord, publish_record
from lego_ray.output.read import checked_files, read_manifest
from lego_ray.output.readable import check_published
from lego_ray.output.write import merge_there_by_digest
from lego_ray.output.write import publish as write_files
from lego_ray.storage.base import Store
from lego_ray.storage.hub_repository import HubRepository
from lego_ray.storage.places import HubPlace
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import parse_uri


@checked
def publish(
    merged: str | PathLike[str],
    *,
    to: str | PathLike[str],
    public: bool = False,
    revision: str = "",
    update: bool = False,
    dry_run: bool = False,
) -> PublishRecord:
    """Copies a published merge, after holding its files against its manifest.

    To a directory or S3 it is create-only, in the order that `merge` writes it. To the
    Hub it is one commit, so that readers see all of it or nothing, in a repository that is made
    private unless `public`. A merge that is there already is left as it is, and so is anything else.

    Card, manifest and running sums of a copy that leaves the machine, to S3 or the Hub, have the names
    of local adapters instead of their paths; the adapter's own bytes do not change.

    Args:
        merged: Where the merge is: a directory, `s3://bucket/prefix` or `hf://owner/name[@revision]`.
        to: Where to copy it: a directory, `s3://bucket/prefix`, or `hf://owner/name[@branch][/folder]`.
        public: Let anyone see it; for the Hub.
        revision: Branch of the repository, created if missing; for the Hub.
        update: Replace an earlier version, which is a merge of the same name, by a commit of its own;
            for the Hub.
        dry_run: Say what would be done, and send no request that writes.

    Returns:
        What was done; see `PublishRecord`, which is read like a dictionary too.

    Raises:
        VerificationFailed: If a file of the merge is not what its manifest says.
        ObjectNotFound: If there is no merge.
        OutputExists: If something else is in its place.
        UnreadableOutput: If the main reader of its layout could not load it as it is meant, as an
            earlier release may have written it.
        InvalidOption: If the options do not go together, or the repository is public and `public` was
            not given.
        AccessDenied: If there is no token, or it may not write there.
        StorageError: If a store cannot be read or written.
    """
    target = parse_uri(to)
    repository = None
    if isinstance(target, HubPlace):
        repository = HubRepository(_at_branch(target, revision))
        repository.check()
    elif public or revision or update:
        given = "--public" if public else "--revision" if revision else "--update"
        raise InvalidOption(
            given,
            f"it is for the Hub, and {target} is not on it",
            "Outputs elsewhere are never overwritten: leave it out, or give another --to.",
        )
    store, there = parse_uri(merged).open(), target.open()
    manifest, data = read_manifest(store)
    files = {**dict(checked_files(store, manifest)), MANIFEST_KEY: data}
    limits = list(check_published(manifest, files, store.uri))
    if is_edited_card(manifest, CARD, files.get(CARD, b"")):
        limits.insert(0, EDITED)
    if not target.is_local and not _holds(there, data):
        manifest, files = for_elsewhere(manifest, files)
    with journal.failures(manifest["merge_id"]):
        if repository is not None:
            asked = {"public": public, "update": update, "dry_run": dry_run}
            record = push(repository, store.uri, manifest, files, **asked)
        else:
            record = _to_store(there, store.uri, manifest, files, dry_run=dry_run)
        record = replace(record, warnings=(*record.warnings, *limits))
        journal.note(record.status, manifest["merge_id"], to=record.to, bytes=record.bytes)
    return record


def _holds(target: Store, manifest: bytes) -> bool:
    """Whether an earlier release copied the very manifest there; create-only, it stays as it is."""
    if target.place.is_read_only:
        return False
    try:
        return read_bytes(target) == manifest
    except ObjectNotFound:
        return False


def _at_branch(target: HubPlace, revision: str) -> HubPlace:
    if revision and target.revision not in ("", revision):
        raise InvalidOption(
            "--revision", f"it is {revision!r}, and the URI says {target.revision!r}", "Give one."
        )
    return replace(target, revision=revision or target.revision)


def _to_store(
    store: Store,
    merged: str,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    dry_run: bool,
) -> PublishRecord:
    def record(status: str) -> PublishRecord:
        told: Any = {"to": store.uri, "status": status, "actions": actions, "dry_run": dry_run}
        if own_card:
            kept = (
                f"{CARD} there has another text and was left as it is; delete it to copy this one"
            )
            told["warnings"] = (kept,)
        return publish_record(merged, manifest, files, **told)

    marker = marker_of(manifest)
    there = merge_there_by_digest(store, manifest["merge_id"], marker, option="--to")
    own_card = there is not None and _card_differs(store, files)
    actions = {
        key: "same" if key == CARD and own_card else _action(store, key, data)
        for key, data in files.items()
    }
    if "add" not in actions.values():
        return record("already published")
    if read_marker(store) is not None:
        raise OutputExists(
            store.uri,
            "it holds an unfinished run of a merge",
            f"Finish that run, delete {folder_uri(store)}, or give another --to.",
        )
    if dry_run:
        return record("would publish")
    probe_create_only(store)
    mine = write_files(store, files, marker, option="--to")
    return record("published" if mine else "already published")


def _card_differs(store: Store, files: Mapping[str, bytes]) -> bool:
    """Whether the model card there has another text."""
    try:
        return CARD in files and store.read(CARD) != files[CARD]
    except ObjectNotFound:
        return False


def _action(store: Store, key: str, data: bytes) -> str:
    """What is to be done about one file: `add`, or nothing, as it is there: `same`."""
    try:
        found = store.read(key)
    except ObjectNotFound:
        return "add"
    if found != data:
        raise OutputExists(
            store.uri,
            f"{key} already exists, with other bytes",
            f"Give another --to, or delete {key} there first.",
        )
    return "same"
