"""The sources of a merge, as its manifest names them, that a report reads without being asked."""

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


def _is_near(uri: str, merged: Place) -> bool:
    if isinstance(merged, FilePlace):
        return uri.startswith("/")
    place = parse_uri(uri) if "://" in uri else None
    return (
        isinstance(merged, BucketPlace)
        and isinstance(place, BucketPlace)
        and (place.scheme, place.bucket) == (merged.scheme, merged.bucket)
    )
