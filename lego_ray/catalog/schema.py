"""What the catalog's tables hold: one list of columns, from which schemas and documentation are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

# Counts up whenever a column is added or changes its meaning. Every table carries the one it is of:
# a newer one than this is refused rather than misread, an older one is read and, once it was brought up
# by `upkeep.migrate`, written. A column that is added comes last in its table and may be null; a table
# that is added is made when something is first written to it.
SCHEMA_VERSION = 5

_STRING = pa.string()
_INT = pa.int32()
_LONG = pa.int64()
_DOUBLE = pa.float64()
_TIME = pa.timestamp("us", tz="UTC")
_MAP = pa.map_(pa.string(), pa.string())
_SCORES = pa.map_(pa.string(), pa.float64())
_STRINGS = pa.list_(pa.string())
_STAGES = pa.list_(pa.struct({"stage": _STRING, "seconds": _DOUBLE, "bytes": _LONG}))


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: In snake_case.
        type: As read by Arrow.
        doc: What a value means, with its unit.
        nullable: Whether a value may be missing.
        since: The schema version it came with.
    """

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    since: int = 1

    @property
    def field(self) -> pa.Field:
        """As a field of an Arrow schema; its metadata has the meaning under `doc`.

        The text is there twice: `comment` is where Delta Lake readers look for it.
        """
        return pa.field(self.name, self.type, self.nullable, {"doc": self.doc, "comment": self.doc})


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table.

    Attributes:
        name: Also the name of its directory below the catalog's URI.
        doc: What one row is.
        columns: In the order they are stored.
    """

    name: str
    doc: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        return pa.schema([column.field for column in self.columns])


_ADAPTERS = TableSpec(
    "adapters",
    "One row for each content ever found usable at a URI, and one for each URI now turned down.",
    (
        Column("adapter_id", _STRING, "Hex hash of the content; null if turned down unread.", True),
        Column("uri", _STRING, "The adapter's directory, or its file."),
        Column("revision", _STRING, "Commit of the hub repository; null elsewhere.", True),
        Column("base_model", _STRING, "Base model the adapter names.", True),
        Column("format", _STRING, "Layout it was read as, such as `peft`.", True),
        Column("rank_min", _INT, "Smallest rank over its sites.", True),
        Column("rank_max", _INT, "Largest rank over its sites.", True),
        Column("n_sites", _LONG, "Number of sites it changes.", True),
        Column("n_params", _LONG, "Number of LoRA parameters.", True),
        Column("n_bytes", _LONG, "Size of its weights file, in bytes.", True),
        Column("dtype", _STRING, "Element type of most parameters, such as `BF16`.", True),
        Column("license", _STRING, "License its model card names.", True),
        Column(
            "tags",
            _MAP,
            "Key/value pairs from its model card, its header, and a hub's file beside it.",
            True,
        ),
        Column(
            "status",
            _STRING,
            "`ok`; `refused`: its headers say it cannot be merged; `quarantined`: its weights do.",
        ),
        Column("reason", _STRING, "Why it was turned down; null if `ok`.", True),
        Column("scanned_at", _TIME, "When this was first found to be so (UTC)."),
        Column(
            "mark",
            _STRING,
            "The store's mark of the weights file when it was last looked at: an ETag, a blob hash, or "
            "size and times on disk. Where it changed, the file is looked at again; it is not part of "
            "the identity. Null if unknown.",
            True,
            since=4,
        ),
        Column(
            "content_sha256",
            _STRING,
            "Hex sha256 over the adapter's tensors; null until they were read whole.",
            True,
            since=4,
        ),
    ),
)

_MERGES = TableSpec(
    "merges",
    "One row for each merged adapter published; written last, so details of a merge that is not "
    "here are leftovers of a run that was cut short.",
    (
        Column("merge_id", _STRING, "Hex sha256 of the plan."),
        Column("name", _STRING, "Name given to the merge."),
        Column(
            "version",
            _LONG,
            "Counts the merges of this name, from 1; the highest is the current one, and one that a "
            "refresh goes back to takes the next.",
        ),
        Column("parent_id", _STRING, "The merge this one updates; null if none.", True),
        Column("method", _STRING, "Merge method, such as `lego`."),
        Column("rank", _LONG, "Rank k of the merged adapter; the largest, where sites differ."),
        Column("recipe", _STRING, "The recipe, as canonical JSON."),
        Column("seed", _LONG, "Seed of everything random."),
        Column("adapter_ids", _STRINGS, "The adapters merged."),
        Column("output_uri", _STRING, "Where the merged adapter is."),
        Column("content_hash", _STRING, "Hex sha256 of the merged weights file."),
        Column("status", _STRING, "`ok`: the output is complete."),
        Column("created_at", _TIME, "When it was published (UTC)."),
        Column("seconds", _DOUBLE, "Wall time of the run, in seconds."),
        Column("versions", _MAP, "Versions of the software that made it, by package."),
        Column(
            "licenses",
            _STRINGS,
            "Licenses of the sources, each once; `unknown` for those whose card names none.",
            True,
            since=2,
        ),
        Column(
            "license_conflicts",
            _STRINGS,
            "What to check about them before the merged adapter is passed on, in sentences.",
            True,
            since=2,
        ),
        Column(
            "output_adapter_id",
            _STRING,
            "The merged adapter's own adapter_id, by which a later merge of it names it.",
            True,
            since=2,
        ),
        Column("n_sites", _LONG, "Rows it has in `merge_sites`.", True, since=2),
        Column(
            "n_msus",
            _LONG,
            "Rows it has in `msus`; 0 of a merge before version 5 whose method mixes MSUs.",
            True,
            since=2,
        ),
        Column(
            "stages",
            _STAGES,
            "Wall time in seconds of each stage of the run, in order, and the bytes it read, or for "
            "`publish` wrote. In a build, times are of all its merges together, and bytes that were "
            "read for several are in none.",
            True,
            since=3,
        ),
        Column(
            "drift",
            _DOUBLE,
            "Of an updated merge, how much larger its inertia is than a full merge's is estimated to "
            "be; a ratio, 0 for none. Null if it read all its adapters, or nothing is known.",
            True,
            since=3,
        ),
    ),
)

_MERGE_SITES = TableSpec(
    "merge_sites",
    "One row for each site of a merge.",
    (
        Column("merge_id", _STRING, "The merge."),
        Column("site", _STRING, "The target module's path in the base model."),
        Column("d_in", _LONG, "Length of a row of A."),
        Column("d_out", _LONG, "Length of a column of B."),
        Column("n_msus", _LONG, "Size of the pool: source ranks over all adapters with this site."),
        Column("rank", _LONG, "Merged rank of this site, before padding to the adapter's."),
        Column(
            "inertia",
            _DOUBLE,
            "Sum of squared distances of the MSUs to their centroid, in squared parameter units; "
            "null if the method does not cluster.",
            True,
        ),
        Column(
            "iterations",
            _LONG,
            "K-means steps of the restart kept; null of an updated merge.",
            True,
        ),
        Column(
            "relative_error",
            _DOUBLE,
            "Frobenius norm of (merged update - sum of updates) over that of the sum of updates; "
            "a ratio, null if the sum is zero or, of an updated merge, was not read.",
            True,
        ),
        Column(
            "norm_ratio",
            _DOUBLE,
            "Frobenius norm of the merged update over that of the sum of updates; "
            "a ratio, null if the sum is zero or, of an updated merge, was not read.",
            True,
        ),
    ),
)

_MSUS = TableSpec(
    "msus",
    "Which rank of which adapter went where, and how much of it. Of a method that groups minimal "
    "semantic units (MSUs), `lego` or `concat`, one row for each MSU. Of the others, since version 5, "
    "one row for each of the largest shares of a merged rank, and one for the other shares of each "
    "adapter at the site, added up. Before version 5 the others have no rows.",
    (
        Column("merge_id", _STRING, "The merge."),
        Column("site", _STRING, "The target module's path in the base model."),
        Column("adapter_id", _STRING, "The adapter the MSU is from."),
        Column(
            "rank_index",
            _INT,
            "Row of A in the source, from 0; the singular index if the SVD basis was asked for; -1 in "
            "the row of an adapter's other shares.",
        ),
        Column(
            "cluster",
            _INT,
            "The merged rank, from 0: row of A in the merged adapter, as the method makes it; a "
            "`--spectrum` after `lego` or one that merges rank by rank replaces the rows by mixtures of "
            "them. -1 in the row of an adapter's other shares, which are of all ranks of the site.",
        ),
        Column(
            "distance",
            _DOUBLE,
            "Euclidean distance to the cluster's centroid before reweighting, "
            "in the space that was clustered, in parameter units; of an updated merge, to the "
            "centroid in the last full one. Null if the method does not group MSUs.",
            True,
        ),
        Column(
            "weight",
            _DOUBLE,
            "The MSU's share of the merged rank; shares of one rank add up to 1. Of `lego` 1 / cluster "
            "size; of the others it is negative where an MSU works against the others of its rank.",
            True,
        ),
    ),
)

_GROUPS = TableSpec(
    "groups",
    "One row for each adapter of a grouping: which group it was put in, or that it stays alone. Written "
    "once all merges of the groups are in `merges`. Since version 3.",
    (
        Column(
            "grouping_id",
            _STRING,
            "Hex sha256 of the grouping: name, adapters, how they were grouped, and the merges.",
        ),
        Column("name", _STRING, "Name of the recipe's entry; its groups are called `name-1`, ..."),
        Column("group_name", _STRING, "Name of its group and of that merge; null if alone.", True),
        Column("merge_id", _STRING, "The merge of its group; null if alone.", True),
        Column("adapter_id", _STRING, "The adapter."),
        Column("uri", _STRING, "Where it was read."),
        Column(
            "status", _STRING, "`member`: merged with its group; `alone`: left out of the merges."
        ),
        Column(
            "similarity",
            _DOUBLE,
            "Mean cosine of its update to those of the group's other members; null if alone.",
            True,
        ),
        Column("nearest_group", _STRING, "The other group it is most like; null if none.", True),
        Column(
            "nearest_similarity",
            _DOUBLE,
            "Mean cosine of its update to those of that group; null if there is none.",
            True,
        ),
        Column(
            "silhouette",
            _DOUBLE,
            "Mean silhouette of the cut, by which `auto` chooses the number of groups; null where it "
            "is not defined, as for one group.",
            True,
        ),
        Column("found_at", _TIME, "When this was recorded (UTC)."),
    ),
)

_TRIALS = TableSpec(
    "trials",
    "One row for each trial of a search by `lego-ray tune`: a merge that was scored. Written once the "
    "best of them is in `merges`.",
    (
        Column(
            "study_id",
            _STRING,
            "Hex sha256 of what the study is of: adapters, recipe, space, scorer, objective, seed.",
        ),
        Column("name", _STRING, "Name of the merge."),
        Column("trial", _LONG, "Number of the trial, from 0."),
        Column(
            "parameters",
            _STRING,
            "What it merged by, as canonical JSON: `preset`, `rank`, `scale`, `spectrum`, `weights`.",
        ),
        Column("status", _STRING, "`ok`; `failed`: the merge could not be made or scored."),
        Column("reason", _STRING, "Why it failed; null if `ok`.", True),
        Column(
            "value", _DOUBLE, "What the objective makes of its scores; null if it failed.", True
        ),
        Column("score", _DOUBLE, "The scorer's score; larger is better; null if it failed.", True),
        Column("tasks", _SCORES, "The score of each task; null if it failed.", True),
        Column("seconds", _DOUBLE, "Wall time of merging and scoring, in seconds."),
        Column(
            "merge_id",
            _STRING,
            "The merge that was published of it, if it was the best; null of the others.",
            True,
        ),
        Column("recorded_at", _TIME, "When this was recorded (UTC)."),
    ),
)

TABLES: Mapping[str, TableSpec] = MappingProxyType(
    {spec.name: spec for spec in (_ADAPTERS, _MERGES, _MERGE_SITES, _MSUS, _GROUPS, _TRIALS)}
)

# Methods whose rows of `msus` are one for each MSU.
GROUPING = frozenset({"lego", "concat"})

# Tables whose rows count only once their merge has its row in `merges`.
DETAIL_TABLES = frozenset({"merge_sites", "msus"})


def describe() -> str:
    """Documents every table and column in Markdown, for docs/catalog.md."""
    parts = [
        f"Schema version {SCHEMA_VERSION}. Columns of a later version than 1 say so, and are null in "
        "rows written before."
    ]
    for spec in TABLES.values():
        rows = [
            f"| `{c.name}` | {_type_name(c.type)}{' or null' if c.nullable else ''} | {c.doc}"
            f"{f' Since version {c.since}.' if c.since > 1 else ''} |"
            for c in spec.columns
        ]
        head = (
            f"#### `{spec.name}`\n\n{spec.doc}\n\n| column | type | meaning |\n| --- | --- | --- |"
        )
        parts.append("\n".join([head, *rows]))
    return "\n\n".join(parts) + "\n"


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"map({kind.key_type}, {kind.item_type})"
    if pa.types.is_list(kind):
        return f"list({_type_name(kind.value_type)})"
    if pa.types.is_struct(kind):
        fields = ", ".join(f"{field.name} {_type_name(field.type)}" for field in kind)
        return f"struct({fields})"
    if pa.types.is_timestamp(kind):
        return "timestamp, UTC microseconds"
    return str(kind)
