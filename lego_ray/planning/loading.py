"""What readers will make of a merge, as far as a plan shows: before anything is read or solved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from lego_ray.formats.peft_carried import Carried, carried_over
from lego_ray.formats.peft_keys import factor_key
from lego_ray.formats.peft_output import config_of
from lego_ray.formats.peft_patterns import exact_key
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.readers.kohya import ALPHA, DOWN, UP, wants_alphas
from lego_ray.formats.readers.outgoing import Outgoing
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.plan import SitePlan

Shapes = dict[str, tuple[int, ...]]


def reader_warnings(
    written_as: str,
    name: str,
    base_model: str,
    adapters: Sequence[AdapterRecord],
    sites: Sequence[SitePlan],
    *,
    rank: int,
    compact: bool,
) -> tuple[str, ...]:
    """What was changed so that readers load a merge, and which of them do not.

    Args:
        written_as: Its layout.
        name: What it is called, for errors.
        base_model: Its base model.
        adapters: Its sources, the one whose full weights are kept among them.
        sites: Its sites.
        rank: Its rank; 0 while that is open.
        compact: Whether each site is stored at its own rank.

    Raises:
        UnreadableOutput: If the main reader of its layout could not load it as it is meant.
    """
    ranks = {site.site: (site.rank if compact else rank) or 1 for site in sites}
    notes: tuple[str, ...] = ()
    if PurePosixPath(base_model).is_absolute():
        notes = (
            f"the base model's name is the path {base_model}, which is of no use elsewhere; "
            "--base-model gives it another",
        )
    if written_as == "peft":
        carried = peft_carried_of(adapters, ranks)
        notes += carried.notes
        outgoing = _peft(f"merge {name}", base_model, adapters, sites, ranks, carried)
    elif written_as == "kohya":
        outgoing = Outgoing("kohya", f"merge {name}", _kohya(sites, ranks))
    else:
        return notes
    return (*notes, *check_readers(outgoing))


def peft_carried_of(adapters: Sequence[AdapterRecord], sites: Iterable[str]) -> Carried:
    """What a merge in PEFT's layout takes over of its sources.

    Args:
        adapters: Its sources, the one whose full weights are kept among them.
        sites: Every site of the output.
    """
    keeper = next((a for a in adapters if a.full_weights), None)
    return carried_over(
        agreed(adapters, "task_type"),
        keeper.config if keeper else {},
        [span.name for span in keeper.full_weights] if keeper else [],
        set(sites),
    )


def agreed(adapters: Sequence[AdapterRecord], field: str) -> Any:
    """The value of a field of the configuration that all sources have in common; None for none.

    Args:
        adapters: The sources.
        field: The field's name.
    """
    values = {adapter.config.get(field) for adapter in adapters}
    return values.pop() if len(values) == 1 else None


def _peft(
    where: str,
    base_model: str,
    adapters: Sequence[AdapterRecord],
    sites: Sequence[SitePlan],
    ranks: dict[str, int],
    carried: Carried,
) -> Outgoing:
    rank = max(ranks.values())
    shapes: Shapes = {}
    for site in sites:
        embedding = site.kind == "embedding"
        a, b = (factor_key(site.site, half, is_embedding=embedding) for half in ("A", "B"))
        shapes[a] = (ranks[site.site], *site.a_tail)
        shapes[b] = (site.d_out, ranks[site.site], *(1,) * (site.b_dims - 2))
    for adapter in adapters:
        shapes |= {carried.keys[span.name]: span.shape for span in adapter.full_weights}
    patterns = {exact_key(s, ranks): r for s, r in ranks.items() if r != rank}
    config = config_of(
        sorted(ranks),
        rank=rank,
        patterns=patterns,
        base_model=base_model,
        task_type=carried.task_type,
        fan_in_fan_out=bool(agreed(adapters, "fan_in_fan_out")),
        modules_to_save=carried.modules_to_save,
        bias=carried.bias,
    )
    return Outgoing("peft", where, shapes, config)


def _kohya(sites: Sequence[SitePlan], ranks: dict[str, int]) -> Shapes:
    shapes: Shapes = {}
    is_mixed = len(set(ranks.values())) > 1
    for site in sites:
        shapes[f"{site.site}{DOWN}"] = (ranks[site.site], *site.a_tail)
        shapes[f"{site.site}{UP}"] = (site.d_out, ranks[site.site], *(1,) * (site.b_dims - 2))
    if wants_alphas(ranks, is_mixed=is_mixed):
        shapes |= {f"{name}{ALPHA}": () for name in ranks}
    return shapes
