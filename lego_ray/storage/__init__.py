"""Bytes by URI: local disk, S3, Google Cloud Storage, Azure, the Hub, web sites. Knows no LoRA."""

from lego_ray.storage.base import ByteRange, ObjectInfo, Store
from lego_ray.storage.delta_options import delta_storage_options
from lego_ray.storage.file import FileStore
from lego_ray.storage.hub import HubStore
from lego_ray.storage.open import open_store
from lego_ray.storage.probe import probe_create_only
from lego_ray.storage.ranged_file import RangedFile
from lego_ray.storage.s3 import S3Store
from lego_ray.storage.uri import join, normalize_uri

__all__ = [
    "ByteRange",
    "FileStore",
    "HubStore",
    "ObjectInfo",
    "RangedFile",
    "S3Store",
    "Store",
    "delta_storage_options",
    "join",
    "normalize_uri",
    "open_store",
    "probe_create_only",
]
