"""The record of a site that was written."""

from __future__ import annotations

from dataclasses import dataclass

from lego_ray.records import Record


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SiteRecord(Record):
    """A catalog's static site, as it was written.

    Attributes:
        output: URI of the site.
        index: URI of its first page, to be opened in a browser.
        catalog: URI of the catalog.
        adapters: Rows of the catalog's adapters.
        merges: Merges, counting each version.
        groupings: Groupings.
        trials: Trials of `tune`; None if the catalog has no such table.
        problems: Problems that the check found; None if the check was not run.
        files: Files of the site.
        bytes: Their bytes.
        written: How many of the files were new or changed.
        removed: Files of former versions of the site that were deleted.
        warnings: Sentences on what the site lacks.
    """

    output: str
    index: str
    catalog: str
    adapters: int
    merges: int
    groupings: int
    trials: int | None
    problems: int | None
    files: int
    bytes: int
    written: int
    removed: int
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.adapters} adapters, {self.merges} merges, "
            f"{self.files} files: {self.index}>"
        )
