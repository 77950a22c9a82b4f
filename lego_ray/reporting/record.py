"""The record of a page about a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lego_ray.records import Record


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ReportRecord(Record):
    """A page about a merge, as it was written.

    Attributes:
        merged: URI of the merge.
        merge_id: Its id, hex.
        output: Path of the page.
        bytes: Bytes of the page.
        sections: Of each section that may lack its data, whether it has them: `map`, `lineage`,
            `clusters`, `flow`, `errors`, `norms`, `stages` and `search`.
        warnings: Sentences on what the page lacks.
    """

    merged: str
    merge_id: str
    output: str
    bytes: int
    sections: Mapping[str, bool]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.merge_id[:12]}, {self.bytes} bytes: {self.output}>"
