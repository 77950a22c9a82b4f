"""What is in a Delta table by its log alone, read without the Delta library or lego-ray."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs


@dataclass
class Replay:
    """A table followed commit by commit; each is read once.

    Attributes:
        files: The file system of the catalog's directory.
        table: Name of the table in it.
        version: The last commit that was read; -1 for none.
        active: Files of the state after it, and the rows the log has of each.
    """

    files: fs.FileSystem
    table: str
    version: int = -1
    active: dict[str, int] = field(default_factory=dict)

    def rows(self) -> pa.Table:
        """Reads the commits since the last call, then all rows of the state after them.

        Raises:
            RuntimeError: If a commit removes a file that is not there, or adds one that is, or a file
                has other rows than the log says.
        """
        while self._read_commit():
            pass
        parts = []
        for name, n_rows in self.active.items():
            with self.files.open_input_file(f"{self.table}/{name}") as opened:
                part = pq.read_table(opened, page_checksum_verification=True)
            if part.num_rows != n_rows:
                raise RuntimeError(f"{self.table}/{name} has {part.num_rows} rows, not {n_rows}.")
            parts.append(part)
        return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})

    def _read_commit(self) -> bool:
        name = f"{self.table}/_delta_log/{self.version + 1:020}.json"
        if self.files.get_file_info(name).type == fs.FileType.NotFound:
            return False
        with self.files.open_input_stream(name) as opened:
            actions = [json.loads(line) for line in opened.read().splitlines()]
        for removed in (action["remove"] for action in actions if "remove" in action):
            if removed["path"] not in self.active:
                raise RuntimeError(f"{name} removes {removed['path']}, which is not in the table.")
            del self.active[removed["path"]]
        for added in (action["add"] for action in actions if "add" in action):
            if added["path"] in self.active:
                raise RuntimeError(f"{name} adds {added['path']}, which is in the table.")
            self.active[added["path"]] = json.loads(added["stats"])["numRecords"]
        self.version += 1
        return True
