"""Catalogs to write sites of: a real one, and one of any size that nobody merged."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lego_ray
from lego_ray.catalog.groups import record_groups
from lego_ray.catalog.tables import Catalog
from tests.catalog.sample import NOW, adapter, group, merge, refused
from tests.zoo import write_adapter, write_zoo

EVIL = "<script>document.title='taken'<"
# Names, tags and reasons as somebody may write them.
HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "\"'><img src=x onerror=\"document.title='taken'\">",
    "\u202egnp.exe",
    "naïve 日本語 שלום",
    "__proto__",
    "{{ 7 * 7 }}${7 * 7}",
    "line\u2028end\nnext",
)


def real_catalog(root: Path) -> Path:
    """A zoo of eight adapters and a refused one; `one` merged of all, `two` of `one` and an adapter."""
    zoo = write_zoo(root / "zoo", 7)
    write_adapter(zoo / EVIL, seed=9, rank=6)
    write_adapter(zoo / "dora", use_dora=True)
    catalog = root / "catalog"
    how: dict[str, Any] = {"rank": 4, "catalog": catalog, "runner": "inline"}
    lego_ray.merge(zoo, output=root / "library" / "one", **how)
    lego_ray.merge([root / "library" / "one", zoo / "a0"], output=root / "library" / "two", **how)
    return catalog


def large_catalog(root: Path, n_adapters: int, n_merges: int = 60) -> Path:
    """Rows of so many adapters of three base models, and of merges that hold 100 of them each."""
    catalog = Catalog(str(root / "catalog"))
    ids = [f"{i:04x}{i * 2654435761 % 2**32:08x}".ljust(64, "a") for i in range(n_adapters)]
    rows = [
        adapter(
            adapter_id=ids[i],
            uri=f"s3://zoo/team-{i % 7}/adapter-{i:05d}",
            base_model=f"acme/base-{i % 3}",
            rank_min=4 << i % 3,
            rank_max=4 << i % 3,
            license=("mit", "apache-2.0", None)[i % 3],
            tags={"language": ("en", "fr", "de", "ja")[i % 4], "number": str(i)},
        )
        for i in range(n_adapters)
    ]
    rows += [
        refused(uri=f"s3://zoo/broken-{i:04d}", reason=f"MalformedAdapter: truncated at byte {i}")
        for i in range(n_adapters // 100)
    ]
    catalog.append("adapters", rows)
    merges = [
        merge(
            merge_id=f"{i:04x}{i * 40503 % 2**16:04x}".ljust(64, "b"),
            name=f"topic-{i // 3}",
            version=i % 3 + 1,
            adapter_ids=[ids[(i * 37 + j) % n_adapters] for j in range(min(100, n_adapters))],
            output_uri=f"s3://library/topic-{i // 3}-v{i % 3 + 1}",
            output_adapter_id=f"{i:064x}",
            created_at=NOW + timedelta(hours=i),
            n_sites=0,
            n_msus=0,
        )
        for i in range(n_merges)
    ]
    catalog.append("merges", merges)
    return Path(catalog.uri)


def hostile_catalog(root: Path) -> Path:
    """Names, tags, reasons, licenses and recipes that are markup, script or trick the eye."""
    catalog = Catalog(str(root / "catalog"))
    n = len(HOSTILE)
    ids = [f"{i:064x}" for i in range(n)]
    rows = [
        adapter(
            adapter_id=ids[i],
            uri=f"/zoo/{text}",
            base_model=text,
            license=text,
            tags={text: text, "__proto__": "x"},
        )
        for i, text in enumerate(HOSTILE)
    ]
    rows += [refused(uri=f"/bad/{i}", reason=text) for i, text in enumerate(HOSTILE)]
    catalog.append("adapters", rows)
    merges = [
        merge(
            merge_id=f"{i:064x}",
            name=text,
            adapter_ids=ids,
            recipe=f'{{"note": {text!r}}}' if i % 2 else text,
            licenses=[text],
            license_conflicts=[text],
            output_uri=f"/out/{text}",
            output_adapter_id=None,
            versions={text: text},
        )
        for i, text in enumerate(HOSTILE)
    ]
    catalog.append("merges", merges)
    for i, text in enumerate(HOSTILE):
        rows = [group(grouping_id=f"{i:064x}", name=text, group_name=text, adapter_id=ids[0])]
        record_groups(catalog, rows)
    return Path(catalog.uri)
