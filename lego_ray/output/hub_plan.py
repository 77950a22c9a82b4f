"""What publishing a merge changes in a repository on the Hub: decided here, from what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.errors import InvalidOption, MalformedAdapter, OutputExists
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.output.manifest import MANIFEST_KEY, listed_files, parse_manifest
from lego_ray.output.publish_record import CARD
from lego_ray.storage.hub import HubStore
from lego_ray.storage.hub_client import same_content
from lego_ray.storage.hub_repository import HubRepository, RepositoryState

# Files that hold an adapter's weights, lego-ray's own or another's.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt")
_ELSEWHERE = "Publish to another repository, or to a branch of its own with --revision."
_UPDATE = "Add --update to replace it; the history keeps what is there."


@dataclass(frozen=True, slots=True)
class Change:
    """What publishing changes in a repository.

    Attributes:
        private: Whether only its owners will see it.
        creates: Whether the repository is made.
        branches: Whether the branch is made.
        add: Keys of the files that are not there.
        replace: Keys of those that are there with other bytes.
        delete: Keys of files of the merge that is replaced, and that this one does not have.
        replaces: Id of the merge that is replaced, or empty.
        warnings: What a user should know.
    """

    private: bool
    creates: bool = False
    branches: bool = False
    add: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    replaces: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def commits(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.add or self.replace or self.delete)


def manifest_there(
    repository: HubRepository, state: RepositoryState | None
) -> dict[str, Any] | None:
    """The manifest of the merge that a repository holds, or None if it holds none.

    Raises:
        OutputExists: If what is there cannot be read as one.
    """
    if state is None or MANIFEST_KEY not in state.files:
        return None
    try:
        manifest = parse_manifest(_read(repository, state, MANIFEST_KEY), repository.uri)
        listed_files(manifest, repository.uri)
    except MalformedAdapter as error:
        raise OutputExists(
            repository.uri, f"in its {MANIFEST_KEY}: {error.problem}", _ELSEWHERE
        ) from error
    return manifest


def card_edited(
    repository: HubRepository, state: RepositoryState | None, there: Mapping[str, Any] | None
) -> bool:
    """Whether the model card in a repository is another than the merge there was published with."""
    if state is None or there is None or CARD not in state.files or CARD not in there["files"]:
        return False
    found = hashlib.sha256(_read(repository, state, CARD)).hexdigest()
    return bool(found != there["files"][CARD]["sha256"])


def _read(repository: HubRepository, state: RepositoryState, key: str) -> bytes:
    return HubStore(repository.at.repo_id, state.head, repository.at.subfolder).read(key)


def change_of(
    uri: str,
    state: RepositoryState | None,
    there: Mapping[str, Any] | None,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    public: bool,
    update: bool,
    edited: bool = False,
) -> Change:
    """Decides what publishing a merge changes.

    A merge takes the place of another only where `update` asks for it, and only of one with the same
    name or of the one it was updated from. A branch that is new, or still where it was cut, has
    nothing of its own to lose.

    Args:
        uri: The repository, for errors.
        state: What is there; None if there is no repository.
        there: The manifest of the merge that is there, if there is one.
        manifest: The manifest of the merge to publish.
        files: Its files, the manifest among them.
        public: Whether anyone may see it.
        update: Whether it may take the place of an earlier version.
        edited: Whether the model card there is another than the merge there was published with.

    Raises:
        OutputExists: If something else is there.
        InvalidOption: If the repository is public, and that was not asked for.
    """
    if state is None:
        shown = _shown_names(manifest) if public else ()
        return Change(
            private=not public, creates=True, add=tuple(sorted(files)), warnings=tuple(shown)
        )
    if not state.private and not public:
        raise InvalidOption(
            uri,
            "the repository is public, and without --public a merge is published in private",
            "Add --public, or make it private in its settings on the Hub.",
        )
    warnings = [] if state.private else [*_shown_names(manifest)]
    if state.private and public:
        warnings.append("the repository is private and stays so; its settings on the Hub change it")
    add = [key for key in sorted(files) if key not in state.files]
    other = [
        key
        for key, data in sorted(files.items())
        if key in state.files and not same_content(state.files[key], data)
    ]
    if state.of_its_own:
        if there is None:
            _check_free(uri, state, other, update=update)
        elif there["merge_id"] == manifest["merge_id"]:
            if other == [CARD] and not add and not update:
                other = []
                warnings.append(f"{CARD} was changed there, and --update would put this one back")
            _check_whole(uri, [*add, *other], update=update)
        else:
            _check_version(uri, there, manifest, update=update)
            if edited:
                warnings.append(f"{CARD} was changed there; the history keeps that text")
    replaced = there is not None and there["merge_id"] != manifest["merge_id"]
    return Change(
        private=state.private,
        branches=not state.has_branch,
        add=tuple(add),
        replace=tuple(other),
        delete=tuple(
            key for key in sorted(there["files"]) if key in state.files and key not in files
        )
        if there is not None
        else (),
        replaces=there["merge_id"] if there is not None and replaced else "",
        warnings=tuple(warnings),
    )


def _shown_names(manifest: Mapping[str, Any]) -> list[str]:
    """What a public repository would show of where one keeps things."""
    places = [str(s["uri"]) for s in manifest["sources"]]
    places += [str(r["adapter"]) for r in manifest.get("refused", ())]
    own = [uri for uri in places if not uri.startswith("hf://")]
    if not own:
        return []
    return [
        f"card and manifest show anyone the names of {len(own)} adapters of your own, such as {own[0]}"
    ]


def _check_free(uri: str, state: RepositoryState, other: Sequence[str], *, update: bool) -> None:
    """Refuses a repository of another's adapter, and other files unless they may be replaced."""
    for key in sorted(state.files):
        if key == CONFIG_NAME or ("/" not in key and key.endswith(_WEIGHTS)):
            raise OutputExists(uri, f"it holds {key}, which is of no merge by lego-ray", _ELSEWHERE)
    if other and not update:
        raise OutputExists(uri, f"{', '.join(other)} already exists with other bytes", _UPDATE)


def _check_whole(uri: str, differing: Sequence[str], *, update: bool) -> None:
    """Refuses the same merge with files changed there, unless they may be put back."""
    if differing and not update:
        raise OutputExists(
            uri,
            f"it holds this merge, but {', '.join(differing)} was changed or deleted there since",
            "Add --update to put it back.",
        )


def _check_version(
    uri: str, there: Mapping[str, Any], manifest: Mapping[str, Any], *, update: bool
) -> None:
    """Refuses another merge, unless it is an earlier version and may be replaced."""
    earlier = (
        there.get("name") == manifest["name"] or manifest.get("parent_id") == there["merge_id"]
    )
    if earlier and update:
        return
    raise OutputExists(
        uri,
        f"it holds another merge, {there.get('name')!r} {there['merge_id'][:12]}, and this one is "
        f"{manifest['name']!r} {manifest['merge_id'][:12]}",
        _UPDATE if earlier else f"--update replaces merges of the same name only. {_ELSEWHERE}",
    )


def commit_message(
    manifest: Mapping[str, Any], change: Change, rank: int | None
) -> tuple[str, str]:
    """First line and rest of the message of a commit.

    Args:
        manifest: The merge's.
        change: What is committed.
        rank: Rank of the merged adapter, or None if it names none.
    """
    verb = "Update" if change.replaces else "Publish"
    name = " ".join(str(manifest["name"]).split())[:80]
    made = f"{len(manifest['sources'])} adapters by {manifest['recipe']['method']}"
    lines = [f"merge {manifest['merge_id']}"]
    if change.replaces:
        lines.append(f"replaces {change.replaces}")
    versions = manifest.get("versions", {})
    if "lego-ray" in versions:
        lines.append(f"lego-ray {versions['lego-ray']}")
    return f"{verb} {name}: {made}" + (f" at rank {rank}" if rank else ""), "\n".join(lines)
