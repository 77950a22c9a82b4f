"""Modules that PEFT adapts and that have no tensors in the file, where it gives them random values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from lego_ray.formats.factors import some
from lego_ray.formats.peft_targets import Targets
from lego_ray.formats.wrappers import unwrapped

_LAYER = re.compile(r"(.*?(?:^|\.))(\d+)(\..+)")


def note_of_absent(fields: Mapping[str, object], targets: Targets) -> list[str]:
    """What to tell of modules that an adapter's configuration names and its file has no tensors of.

    PEFT starts them at zero, so that they change nothing, unless `init_lora_weights` is false: then it
    leaves them at random values, other ones each time it loads the adapter. The base model alone says
    which modules exist. So they are found by names that match nothing in the file, and by layers that
    lack what other layers of the file have.

    Args:
        fields: The configuration, parsed.
        targets: What it says of the modules, after all tensors of the file were looked up in it.
    """
    if fields.get("init_lora_weights") is not False or targets.is_foreign:
        return []
    absent = [*_idle_names(fields, targets), *_gaps(targets)]
    if not absent:
        return []
    return [
        f"the file has no tensors of {some(absent)}: since init_lora_weights is false, PEFT gives such "
        "a module random values each time it loads the adapter; the merge has nothing of them"
    ]


def _idle_names(fields: Mapping[str, object], targets: Targets) -> Iterator[str]:
    """Names of `target_modules` that match no module of the file."""
    names = fields.get("target_modules")
    ends = {path[at:] for path in targets.loaded for at in (0, *(n + 1 for n in _dots(path)))}
    for name in sorted(names) if isinstance(names, list) else ():
        if not {name, unwrapped(name)} & ends and not targets.excludes(name):
            yield name


def _dots(path: str) -> Iterator[int]:
    return (at for at, letter in enumerate(path) if letter == ".")


def _gaps(targets: Targets) -> Iterator[str]:
    """Modules that some layers of the file have and others lack, in those others."""
    layers: dict[str, set[str]] = defaultdict(set)
    within: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in targets.loaded:
        if found := _LAYER.fullmatch(path):
            stack, layer, rest = found.groups()
            layers[stack].add(layer)
            within[stack, rest].add(layer)
    for (stack, rest), have in sorted(within.items()):
        for layer in sorted(layers[stack] - have, key=int):
            if targets.names(path := f"{stack}{layer}{rest}"):
                yield path
