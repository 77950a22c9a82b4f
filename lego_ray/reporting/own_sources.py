"""Sources and catalog of a merge that a report reads without being asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lego_ray.errors import UnsupportedUri
from lego_ray.storage.places import BucketPlace, FilePlace, Place
from lego_ray.storage.uri import parse_uri


def own_sources(merged: Place, manifest: Mapping[str, Any]) -> list[str]:
    """The URIs of a merge's sources, if each is in the store that the merge is in.

    So a manifest from elsewhere leads to no other bucket, and nothing is downloaded from the Hub
    unasked. A manifest of a published copy has names in place of local paths; these are not read.

    Args:
        merged: Where the merge is.
        manifest: Its manifest.

    Returns:
        None of them if one is elsewhere.
    """
    uris = [str(source["uri"]) for source in manifest["sources"]]
    try:
        here = [_is_near(uri, merged) for uri in uris]
    except UnsupportedUri:
        return []
    return uris if all(here) else []


# Folders above a merge in which a catalog is looked for: its own, a library's, and that of a library's
# versions.
_ABOVE = 3
CATALOG = "catalog"


def catalogs_beside(merged: Place) -> list[Place]:
    """Where the catalog of a merge is looked for unasked: in `catalog` beside it, or beside its library.

    A manifest does not name it, since the same merge has the same manifest wherever it is recorded.

    Args:
        merged: Where the merge is.
    """
    found: list[Place] = []
    parts = merged.split() if isinstance(merged, FilePlace | BucketPlace) else None
    while parts is not None and len(found) < _ABOVE:
        above = parts[0]
        found.append(above.join(CATALOG))
        parts = above.split()
    return found


def _is_near(uri: str, merged: Place) -> bool:
    if isinstance(merged, FilePlace):
        return uri.startswith("/")
    place = parse_uri(uri) if "://" in uri else None
    return (
        isinstance(merged, BucketPlace)
        and isinstance(place, BucketPlace)
        and (place.scheme, place.bucket) == (merged.scheme, merged.bucket)
    )
