"""Copies a published merge to where it is used: a directory, S3, the Hub. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from os import PathLike
from typing import Any

from lego_ray import journal
from lego_ray.arguments import checked
from lego_ray.errors import InvalidOption, ObjectNotFound, OutputExists
from lego_ray.output.checkpoints.run_folder import folder_uri, read_marker
from lego_ray.output.hub_push import push
from lego_ray.output.leaving import for_elsewhere
from lego_ray.output.manifest import MANIFEST_KEY, marker_of, read_bytes
from lego_ray.output.outcome import CARD, Outcome
from lego_ray.output.read import checked_files, read_manifest
from lego_ray.output.readable import check_published
from lego_ray.output.write import publish as write_files
from lego_ray.output.write import published_manifest
from lego_ray.records import Record
from lego_ray.storage.base import Store
from lego_ray.storage.hub_repository import HubRepository
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.uri import HubPlace, parse_uri


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PublishRecord(Record):
    """What was copied, or would be.

    Attributes:
        merged: URI of the merge.
        merge_id: Its id, hex.
        name: Its name.
        dry_run: Whether nothing was written.
        to: URI of the copy.
        status: `published`, `already published` or, of a dry run, `would publish`.
        deleted: Paths of files that were deleted there.
        warnings: What the user should know.
        url: Page of the repository; this and the next six are of the Hub, and None elsewhere.
        private: Whether only its owners see it.
        creates: Whether the repository was made.
        branch: Its branch.
        replaces: Id of the merge that was there.
        commit: Hash of the commit.
        commit_message: What it says.
        files: Each with `path`, `bytes`, `sha256` and `action`: `add`, `replace` or `same`.
        bytes: Bytes that were written.
        model_card: Text of the model card, or None.
    """

    merged: str
    merge_id: str
    name: str
    dry_run: bool
    to: str
    status: str
    deleted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str | None = None
    private: bool | None = None
    creates: bool | None = None
    branch: str | None = None
    replaces: str | None = None
    commit: str | None = None
    commit_message: str | None = None
    files: tuple[Mapping[str, Any], ...]
    bytes: int
    model_card: str | None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.status}, {self.bytes} bytes, {self.to}>"


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
    limits = check_published(manifest, files, store.uri)
    if not target.is_local and not _holds(there, data):
        manifest, files = for_elsewhere(manifest, files)
    with journal.failures(manifest["merge_id"]):
        if repository is not None:
            asked = {"public": public, "update": update, "dry_run": dry_run}
            outcome = push(repository, manifest, files, **asked)
        else:
            outcome = _to_store(there, manifest, files, dry_run=dry_run)
        outcome = replace(outcome, warnings=(*outcome.warnings, *limits))
        record = _record(outcome, manifest, files, merged=store.uri, dry_run=dry_run)
        journal.note(outcome.status, manifest["merge_id"], to=outcome.to, bytes=record.bytes)
    return record


def _record(
    outcome: Outcome,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    merged: str,
    dry_run: bool,
) -> PublishRecord:
    told = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "actions"}
    marker = marker_of(manifest)  # the file that is written last
    listed = tuple(
        {
            "path": key,
            "bytes": len(files[key]),
            "sha256": sha256(files[key]).hexdigest(),
            "action": outcome.actions[key],
        }
        for key in sorted(files, key=lambda k: (k == marker, k))
    )
    return PublishRecord(
        merged=merged,
        merge_id=manifest["merge_id"],
        name=manifest["name"],
        dry_run=dry_run,
        **told,
        files=listed,
        bytes=sum(len(files[key]) for key, done in outcome.actions.items() if done != "same"),
        model_card=files[CARD].decode(errors="replace") if CARD in files else None,
    )


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
    store: Store, manifest: Mapping[str, Any], files: Mapping[str, bytes], *, dry_run: bool
) -> Outcome:
    marker = marker_of(manifest)
    published_manifest(store, manifest["merge_id"], marker, option="--to")
    actions = {key: _action(store, key, data) for key, data in files.items()}
    if "add" not in actions.values():
        return Outcome(store.uri, "already published", actions)
    if read_marker(store) is not None:
        raise OutputExists(
            store.uri,
            "it holds an unfinished run of a merge",
            f"Finish that run, delete {folder_uri(store)}, or give another --to.",
        )
    if dry_run:
        return Outcome(store.uri, "would publish", actions)
    probe_create_only(store)
    mine = write_files(store, files, marker, option="--to")
    return Outcome(store.uri, "published" if mine else "already published", actions)


def _action(store: Store, key: str, data: bytes) -> str:
    """What is to be done about one file: `add`, or nothing, as it is there: `same`."""
    try:
        found = store.read(key)
    except ObjectNotFound:
        return "add"
    if found != data:
        raise OutputExists(
            store.uri,
            f"{key} is there already, with other bytes",
            "Give another --to, or delete that one first.",
        )
    return "same"
