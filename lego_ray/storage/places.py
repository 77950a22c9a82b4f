"""A place: what a URI means, as a value that joins, pins, compares and opens.

Pure, except for `Place.open`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from lego_ray.storage.base import Store

HUB = "https://huggingface.co"
# Digits of a commit that are shown.
_SHORT = 8


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a store of some kind. Its fields are what the store is opened with, in their order.

    Equal places are equal values, except for links and default branches. `str()` writes a place the one
    way that lego-ray records it.

    Attributes:
        scheme: Of its URIs.
        home: Module and class of the store, which is imported when one is opened.
        path_field: The name of the field with the path in the store, which joining extends.
        is_local: Whether it is a path of this machine.
        is_read_only: Whether nothing can be written there file by file.
    """

    scheme: ClassVar[str]
    home: ClassVar[str]
    path_field: ClassVar[str]
    is_local: ClassVar[bool] = False
    is_read_only: ClassVar[bool] = False

    def open(self) -> Store:
        """Opens the store here, without touching disk or network yet; its keys lie below this place."""
        module, _, name = self.home.partition(":")
        make: Callable[..., Store] = getattr(import_module(module), name)
        return make(*(getattr(self, field.name) for field in fields(self)))

    def join(self, key: str) -> Self:
        """The place of what lies at a key below this one.

        Args:
            key: Path below it, with `/` between parts; empty for the place itself. It is taken as it
                is: parts such as `..` stay.
        """
        key = key.strip("/")
        path = str(getattr(self, self.path_field))
        below = f"{path.rstrip('/')}/{key}" if path else key
        return replace(self, **{self.path_field: below}) if key else self

    def split(self) -> tuple[Self, str] | None:
        """The place above this one and the last part of its path; None for the root of a store."""
        path = str(getattr(self, self.path_field))
        above, _, name = path.rpartition("/")
        root = "/" if path.startswith("/") else ""
        return (replace(self, **{self.path_field: above or root}), name) if name else None

    def is_inside(self, folder: Place) -> bool:
        """Whether this is a folder, or lies below it."""
        return self == folder or self.key_below(folder) != ""

    def key_below(self, folder: Place) -> str:
        """The key of this place below a folder; empty if it does not lie below it."""
        above = f"{str(folder).rstrip('/')}/"
        return str(self).removeprefix(above) if str(self).startswith(above) else ""

    def pinned(self, revision: str) -> Place:
        """The same place at a commit; as it is where there are no commits.

        Args:
            revision: The commit, or empty for none.
        """
        return self

    def page(self, revision: str) -> tuple[str, str] | None:
        """What it is called, and the address of its web page; None if it has no page.

        Args:
            revision: The commit.
        """
        return None


@dataclass(frozen=True, slots=True)
class FilePlace(Place):
    """A local directory; written as its plain absolute path, which every other tool takes."""

    scheme = "file"
    home = "lego_ray.storage.file:FileStore"
    path_field = "path"
    is_local = True

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class BucketPlace(Place):
    """A bucket, or a prefix in one, without slashes at its ends; base of the kinds of object stores."""

    path_field = "prefix"

    bucket: str
    prefix: str

    def __str__(self) -> str:
        root = f"{self.scheme}://{self.bucket}"
        return f"{root}/{self.prefix}" if self.prefix else root


@dataclass(frozen=True, slots=True)
class S3Place(BucketPlace):
    """On S3, or on a server that speaks it."""

    scheme = "s3"
    home = "lego_ray.storage.s3:S3Store"


@dataclass(frozen=True, slots=True)
class CloudPlace(BucketPlace):
    """In a store that is reached through obstore; base of the two kinds."""


@dataclass(frozen=True, slots=True)
class GsPlace(CloudPlace):
    """On Google Cloud Storage."""

    scheme = "gs"
    home = "lego_ray.storage.cloud:GsStore"


@dataclass(frozen=True, slots=True)
class AzPlace(CloudPlace):
    """On Azure Blob Storage; the bucket is a container, of the account that the settings name."""

    scheme = "az"
    home = "lego_ray.storage.cloud:AzStore"


@dataclass(frozen=True, slots=True)
class WebPlace(Place):
    """A file of a web site, or a folder of one, by its address with its query and without a fragment."""

    scheme = "https"
    home = "lego_ray.storage.web:WebStore"
    path_field = "address"
    is_read_only = True

    address: str

    def split(self) -> tuple[WebPlace, str] | None:
        """The address above this one; None for a site's own."""
        above, _, name = self.address.rpartition("/")
        return (WebPlace(above), name) if name and not above.endswith("/") else None

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class HubPlace(Place):
    """A model repository on the Hugging Face Hub, or a folder of one.

    Attributes:
        repo_id: `owner/name`.
        revision: Branch, tag or commit as asked for; empty for the default branch.
        subfolder: Path in the repository, without slashes at its ends; may be empty.
    """

    scheme = "hf"
    home = "lego_ray.storage.hub:HubStore"
    path_field = "subfolder"
    is_read_only = True

    repo_id: str
    revision: str
    subfolder: str

    def pinned(self, revision: str) -> HubPlace:
        """The repository at a commit; empty for whichever."""
        return replace(self, revision=revision)

    def page(self, revision: str) -> tuple[str, str] | None:
        """Its tree at a commit."""
        if not revision:
            return None
        below = f"/{self.subfolder}" if self.subfolder else ""
        page = f"{HUB}/{quote(self.repo_id)}/tree/{quote(revision)}{quote(below)}"
        return f"{self.repo_id}@{revision[:_SHORT]}{below}", page

    def __str__(self) -> str:
        text = f"hf://{self.repo_id}"
        if self.revision:
            special = self.revision.startswith(("refs/pr/", "refs/convert/"))
            text += "@" + (self.revision if special else quote(self.revision, safe=""))
        return f"{text}/{self.subfolder}" if self.subfolder else text
