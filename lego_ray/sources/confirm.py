"""Makes sure that adapters are as they were scanned.

What a task reads is tied to the version of the weights file that was scanned. The configuration says by
what these weights are scaled and is read by the scan alone; and a writer that replaces both files one
after the other may have had one of them written when it was scanned, the other when it was read. So
configurations are held against the scan when a plan's tasks begin, before hours may go into them, and
both files when the tasks are done and before anything is published: every byte that is merged lies
between two moments at which the whole unit was the same. That is a stat for each file, or a HEAD request
on S3, beside the several GET requests that each adapter takes anyway. A commit on the Hub cannot change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from lego_ray.errors import SourceChanged
from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import AdapterRecord
from lego_ray.sources.recorded import folder_of
from lego_ray.storage.places import Place
from lego_ray.storage.uri import parse_uri
from lego_ray.storage.versions import check_unchanged

# Small requests that wait for a store.
THREADS = 16


def confirm(adapters: Iterable[AdapterRecord], *, weights: bool = True) -> None:
    """Passes adapters whose files are those that were scanned.

    Args:
        adapters: The adapters, as they were scanned.
        weights: Whether to look at weights files too, and not at configurations alone.

    Raises:
        SourceChanged: If a file was replaced, rewritten or deleted; the first, in the adapters' order.
        StorageError: If a store cannot be asked.
    """
    adapters = list(adapters)
    files = [
        (adapter, folder_of(adapter), *file)
        for adapter in adapters
        for file in _files(adapter, weights)
    ]
    files += _files_of_base(adapters) if weights else []
    if not files:
        return
    with ThreadPoolExecutor(max_workers=min(THREADS, len(files))) as threads:
        for _ in threads.map(lambda file: _confirm(*file), files):
            pass


def _files_of_base(
    adapters: Iterable[AdapterRecord],
) -> list[tuple[AdapterRecord, Place, str, str, str]]:
    """The files of the base model that adapters are computed with, each once."""
    found = {
        (weight.folder, weight.key, weight.version, weight.changed_at): adapter
        for adapter in adapters
        for site in adapter.sites
        for weight in site.base_weights()
        if weight.version and not weight.revision
    }
    return [
        (adapter, parse_uri(folder), key, version, changed_at)
        for (folder, key, version, changed_at), adapter in found.items()
    ]


def _files(adapter: AdapterRecord, weights: bool) -> Iterator[tuple[str, str, str]]:
    """Names of an adapter's files that may change, and of each its version and `changed_at`."""
    if adapter.revision:
        return
    of_weights, of_config = adapter.changed_at
    if adapter.config_version:
        yield CONFIG_NAME, adapter.config_version, of_config
    if weights and adapter.version:
        yield adapter.weights_key, adapter.version, of_weights


def _confirm(
    adapter: AdapterRecord, folder: Place, key: str, version: str, changed_at: str
) -> None:
    """Passes a file of the version that was scanned.

    A change of rights or links counts as one too. The adapter is then scanned again, and finished tasks
    are kept if its content is the same.
    """
    try:
        check_unchanged(folder.open(), key, str(folder.join(key)), version, changed_at)
    except SourceChanged as error:
        raise SourceChanged(error.where, error.problem, error.hint, adapter.uri) from error
