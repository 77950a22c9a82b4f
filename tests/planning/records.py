"""Inventories made by hand: the planner is handed values and must open nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.formats.site_factors import SiteFactors, SiteKind, TensorSpan
from lego_ray.planning.inventory import Inventory

BASE = "tiny/base"
# (d_in, d_out) of every site that a test does not say more about.
SHAPE = (24, 16)


def layers(count: int, names: Sequence[str] = ("q_proj", "v_proj")) -> list[str]:
    return [f"model.layers.{layer}.{name}" for layer in range(count) for name in names]


def factors(
    site: str,
    rank: int = 4,
    shape: tuple[int, int] = SHAPE,
    *,
    kind: SiteKind = "linear",
    dtype: str = "F32",
    tail: tuple[int, ...] = (),
) -> SiteFactors:
    d_in, d_out = shape
    width = 4 if dtype == "F32" else 2
    b_shape = (d_out, rank, *(1,) * (len(tail) - 1))
    a = TensorSpan(f"{site}.A", dtype, (rank, *(tail or (d_in,))), 0, width * rank * d_in)
    b = TensorSpan(f"{site}.B", dtype, b_shape, a.end, a.end + width * rank * d_out)
    return SiteFactors(site, kind, rank, 2.0, a, b)


def adapter(
    name: str,
    sites: Sequence[SiteFactors] | None = None,
    *,
    content: str = "",
    version: str = "1",
    base_model: str = BASE,
    full_weights: Sequence[str] = (),
    config: Mapping[str, object] | None = None,
) -> AdapterRecord:
    """An adapter at /zoo/<name> whose id is made from `content`, by default its name."""
    return AdapterRecord(
        uri=f"/zoo/{name}",
        weights_key="adapter_model.safetensors",
        adapter_id=f"id-of-{content or name}",
        version=version,
        revision="",
        format="peft",
        base_model=base_model,
        sites=tuple(sites if sites is not None else [factors(s) for s in layers(2)]),
        full_weights=tuple(TensorSpan(key, "F32", (2, 2), 0, 16) for key in full_weights),
        n_bytes=1000,
        config=config or {"task_type": None, "fan_in_fan_out": False},
    )


def inventory(*adapters: AdapterRecord, refused: Sequence[Refused] = ()) -> Inventory:
    return Inventory.of(adapters, refused)


def zoo(count: int = 3) -> Inventory:
    return inventory(*(adapter(f"a{i}") for i in range(count)))


def at_version(record: AdapterRecord, version: str) -> AdapterRecord:
    return replace(record, version=version)
