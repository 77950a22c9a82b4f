"""Publishes a merge to a repository on the Hub, as one commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lego_ray.errors import AlreadyExists, MalformedAdapter, OutputExists, StorageError
from lego_ray.formats.model_card import parse_card
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.strict_json import parse_object
from lego_ray.output.hub_plan import (
    Change,
    card_edited,
    change_of,
    commit_message,
    manifest_there,
)
from lego_ray.output.publish_record import CARD, PublishRecord, publish_record
from lego_ray.storage.hub_repository import HubRepository, RepositoryState, has_token


def push(
    repository: HubRepository,
    merged: str,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    public: bool,
    update: bool,
    dry_run: bool,
) -> PublishRecord:
    """Publishes a merge; see `api.publish` for the promise.

    Args:
        repository: Where to.
        merged: URI of the merge.
        manifest: The merge's.
        files: Its files, the manifest among them.
        public: Whether anyone may see it.
        update: Whether it may take the place of an earlier version.
        dry_run: Whether to send no request that writes.
    """

    def decided(state: RepositoryState | None) -> Change:
        there = manifest_there(repository, state)
        edited = update and card_edited(repository, state, there)
        given = {"public": public, "update": update, "edited": edited}
        return change_of(repository.uri, state, there, manifest, files, **given)

    if not dry_run:
        repository.check_token()
    state = repository.state()
    change = decided(state)
    creates = change.creates
    if state is None and not dry_run:
        state = _made(repository, private=change.private)
        change = decided(state)
    rank = _rank(manifest, files)
    message = commit_message(manifest, change, rank) if change.commits else None
    warnings = change.warnings + _lacking(manifest, files)
    if dry_run and not has_token():
        warnings += ("there is no Hub token, and publishing needs one",)
    changes = change.commits or change.branches
    commit = state.head if state and not changes else None
    if state and changes and not dry_run:
        try:
            commit = _written(repository, state, change, files, message)
        except AlreadyExists as error:
            # Another came first, or this one did and its answer was lost.
            state = repository.state()
            if state is None or decided(state).commits:
                raise OutputExists(
                    repository.uri,
                    f"something else was committed meanwhile ({error.problem})",
                    "Look what is there, then publish again.",
                ) from error
            commit = state.head
    actions = dict.fromkeys(files, "same")
    actions |= dict.fromkeys(change.add, "add") | dict.fromkeys(change.replace, "replace")
    return publish_record(
        merged,
        manifest,
        files,
        dry_run=dry_run,
        to=repository.uri,
        status=("would publish" if dry_run else "published") if changes else "already published",
        actions=actions,
        deleted=change.delete,
        warnings=warnings,
        url=repository.url,
        private=change.private,
        creates=creates,
        branch=repository.branch,
        replaces=change.replaces or None,
        commit=commit,
        commit_message="\n\n".join(message) if message else None,
    )


def _lacking(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[str, ...]:
    """What the card lacks for the Hub to show the merge under its base model."""
    if CARD not in files or parse_card(files[CARD]).base_model:
        return ()
    named = manifest.get("base_model") or "unknown"
    return (
        f"the model card names no base_model, because {named} is not a name on the Hub; merge again "
        "with --base-model owner/name, or edit the card there",
    )


def _made(repository: HubRepository, *, private: bool) -> RepositoryState:
    """Makes the repository, unless another did meanwhile, and looks at it."""
    mine = repository.create(private=private)
    state = repository.state()
    if state is None:
        raise StorageError(
            repository.uri,
            "the Hub says that it is there, and does not show it to this token",
            "Check what the token may read, then publish again.",
        )
    if mine and private and not state.private:
        raise StorageError(
            repository.uri,
            "the Hub made the repository public where private was asked for; nothing was uploaded",
            "Make it private in its settings, or add --public.",
        )
    return state


def _written(
    repository: HubRepository,
    state: RepositoryState,
    change: Change,
    files: Mapping[str, bytes],
    message: tuple[str, str] | None,
) -> str:
    """Makes the branch if need be, and the commit if there is any; returns what it is at then."""
    if change.branches:
        repository.create_branch(state.head)
    if message is None:
        return state.head
    return repository.commit(
        {key: files[key] for key in (*change.add, *change.replace)},
        change.delete,
        parent=state.head,
        summary=message[0],
        description=message[1],
    )


def _rank(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> int | None:
    """The adapter's, by its configuration; by the recipe if there is none."""
    try:
        config = parse_object(files[CONFIG_NAME], CONFIG_NAME) if CONFIG_NAME in files else {}
        rank = config.get("r")
    except MalformedAdapter:
        return None
    rank = manifest["recipe"].get("rank") if CONFIG_NAME not in files else rank
    return rank if isinstance(rank, int) else None
