"""The merge to update: where it is, its manifest, and where its next version goes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lego_ray.catalog.history import find_merge, list_merges
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import (
    InvalidOption,
    MalformedAdapter,
    ObjectNotFound,
    UpdateImpossible,
    VerificationFailed,
)
from lego_ray.output.manifest import marker_of
from lego_ray.output.read import read_manifest
from lego_ray.output.running_sums import STATE_KEY, State, decode_state
from lego_ray.planning.recipe import Recipe, recipe_from
from lego_ray.storage.base import Store
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri


@dataclass(frozen=True, slots=True)
class MergedBefore:
    """A published merge.

    Attributes:
        store: Where it is.
        manifest: Its manifest.
        digest: Hex sha256 of the manifest's bytes.
    """

    store: Store
    manifest: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.manifest["name"])

    @property
    def version(self) -> int:
        """Its version, from 1."""
        return int(self.manifest.get("version", 1))

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe of its next version."""
        asked = {**self.manifest["recipe"], "parent": self.manifest["merge_id"], **changes}
        return recipe_from(asked, self.store.uri)

    def told(self) -> dict[str, Any]:
        """What the next version's manifest says of it."""
        parent = {
            "merge_id": self.manifest["merge_id"],
            "uri": self.store.uri,
            "version": self.version,
            "manifest_sha256": self.digest,
        }
        return {"version": self.version + 1, "parent": parent}

    def on_base(self, base: str) -> MergedBefore:
        """The merge, its next versions made with a base model at another place.

        Args:
            base: URI of the base model.
        """
        recipe = {**self.manifest["recipe"], "base": base}
        return replace(self, manifest={**self.manifest, "recipe": recipe})

    def next_place(self) -> Place:
        """Beside it, called after it: `merged-v2` for `merged`, `merged-v3` for that."""
        above, last = self.store.place.split() or (self.store.place, "")
        stem = re.sub(rf"-v{self.version}$", "", last)
        return above.join(f"{stem}-v{self.version + 1}")

    def state(self) -> State:
        """Its running sums.

        Raises:
            UpdateImpossible: If it has none.
            VerificationFailed: If they are not those that were published.
            MalformedAdapter: If this release cannot read them.
        """
        where = f"{self.store.uri}/{STATE_KEY}"
        listed = self.manifest["files"].get(STATE_KEY)
        if listed is None or not self.manifest["recipe"].get("updatable"):
            raise UpdateImpossible(
                self.store.uri,
                "it was merged without --updatable, so no running sums are beside it",
                "Make its next version with --refit, which reads all adapters and keeps them.",
            )
        try:
            data = self.store.read(STATE_KEY)
        except ObjectNotFound as error:
            raise VerificationFailed(
                where, "the manifest lists it and it is not there", "Merge again with --refit."
            ) from error
        if hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise VerificationFailed(
                where,
                "it is not what was published",
                "It was changed or damaged; merge again with --refit.",
            )
        return decode_state(data, where)


def find_merged(merge: str, catalog: Catalog | None) -> MergedBefore:
    """Finds a published merge by its URI or, in a catalog, by its name or merge_id.

    Raises:
        ObjectNotFound: If there is none.
        InvalidOption: If the catalog has none that fits, or several.
        MalformedAdapter: If its manifest cannot be read, or it was cut short.
    """
    try:
        return _at(parse_uri(merge))
    except ObjectNotFound:
        if catalog is None or not catalog.exists("merges") or "/" in merge:
            raise
    row = find_merge(list_merges(catalog).to_pylist(), merge)
    found = _at(parse_uri(row["output_uri"]))
    if found.manifest["merge_id"] != row["merge_id"]:
        raise InvalidOption(
            merge, f"another merge is at {found.store.uri} by now", "Give the URI of the one meant."
        )
    return found


def _at(place: Place) -> MergedBefore:
    store = place.open()
    manifest, data = read_manifest(store)
    if not all(key in manifest for key in ("base_model", "dtype", "format", "sites")):
        raise MalformedAdapter(
            store.uri, "its manifest lacks what an update takes over", "Merge it again."
        )
    try:
        store.stat(marker_of(manifest))
    except ObjectNotFound as error:
        raise ObjectNotFound(
            store.uri, f"it has no {marker_of(manifest)} yet", "Finish that merge first."
        ) from error
    return MergedBefore(store, manifest, hashlib.sha256(data).hexdigest())
