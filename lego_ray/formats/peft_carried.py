"""What a merged adapter takes over of its sources' PEFT configurations, so that PEFT loads the result.

PEFT's model class for a task looks for the head of that task in the file, and loads tensors by the
module they are in now: a weight kept from one adapter may be in a module that another one adapted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lego_ray.formats.peft_beside import BIAS, TOKENS, beside_factors, placed
from lego_ray.formats.peft_keys import PREFIX, full_weight_key, is_embedding_weight
from lego_ray.formats.peft_parameters import BASE_LAYER
from lego_ray.formats.wrappers import named_like

_CLASSIFIERS = ("classifier", "score")

# Modules that PEFT adds to `modules_to_save` for a task, whatever the configuration says.
SAVED_FOR_TASK: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": _CLASSIFIERS,
    "TOKEN_CLS": _CLASSIFIERS,
    "QUESTION_ANS": ("qa_outputs",),
}
# Of these PEFT writes all into a configuration, and a model has one of them.
HEADS = frozenset((*_CLASSIFIERS, "qa_outputs"))


@dataclass(frozen=True, slots=True)
class Carried:
    """What goes into a merged adapter beside its factors.

    Attributes:
        task_type: As PEFT's configuration has it, or None.
        modules_to_save: As PEFT's configuration has it; empty for none.
        bias: As PEFT's configuration has it.
        keys: Key in the output of each full weight, by its key in the file it comes from.
        beside: Fields of PEFT's configuration that say what is trained beside the factors.
        notes: What was changed, and why; one sentence each, without its full stop.
    """

    task_type: str | None
    modules_to_save: tuple[str, ...]
    bias: str
    keys: Mapping[str, str]
    notes: tuple[str, ...]
    beside: Mapping[str, object] = field(default_factory=dict)


def carried_over(
    task_type: object,
    keeper: Mapping[str, object],
    names: Sequence[str],
    sites: Collection[str],
) -> Carried:
    """Decides what a merged adapter takes over.

    Args:
        task_type: What the sources agree on, or None.
        keeper: What `peft.read_adapter` noted of the adapter whose full weights are kept; empty for
            none.
        names: Keys of these weights, as in its file.
        sites: Every site of the output.
    """
    notes: list[str] = []
    keys = {name: placed(name, sites) or placed_key(name, sites) for name in names}
    beside: dict[str, object] = {BIAS: True} if keeper.get(BIAS) else {}
    if keeper.get(TOKENS):
        beside[TOKENS] = keeper[TOKENS]
    apart = set(beside_factors(names)) if beside else set()
    listed = keeper.get("modules_to_save")
    asked = tuple(listed) if isinstance(listed, list | tuple) else ()
    bias = str(keeper.get("bias") or "none")
    found = [name for name in asked if any(holds(key, name) for key in keys.values())]
    # PEFT writes all names of heads beside the one there is.
    heads = [name for name in asked if name in HEADS and set(found) & HEADS]
    saved = [name for name in asked if name in found or name in heads]
    lacking = [name for name in asked if name not in saved]
    if names and lacking:
        notes.append(
            f"modules_to_save names {', '.join(lacking)}, of which the adapter's file has no tensor; "
            "the merged adapter does not name it"
        )
    for name, key in keys.items():
        if name not in apart and not _is_placed(key, saved, bias):
            module = key.removeprefix(PREFIX).rpartition(".")[0]
            saved.append(module)
            notes.append(f"{name} is in no module that modules_to_save names; {module} was added")
    task = task_type if isinstance(task_type, str) else None
    wanted = SAVED_FOR_TASK.get(task or "", ())
    if wanted and not any(holds(key, name) for key in keys.values() for name in wanted):
        notes.append(
            f"task_type {task} was left out of the merged adapter: with it PEFT demands a head "
            f"({' or '.join(wanted)}) that is not in there"
        )
        task = None
    return Carried(task, tuple(saved), bias, keys, tuple(notes), beside)


def placed_key(key: str, sites: Collection[str]) -> str:
    """The key a full weight has in a file whose LoRA is on these sites.

    Args:
        key: Its key in the file it comes from.
        sites: Every site of the output.
    """
    module, _, parameter = full_weight_key(key).removeprefix(PREFIX).rpartition(".")
    module = named_like(module.removesuffix(f".{BASE_LAYER}"), sites)
    inner = f"{module}.{BASE_LAYER}" if module in sites else module
    return f"{PREFIX}{inner}.{parameter}"


def holds(key: str, name: str) -> bool:
    """Whether a tensor is in the module that an entry of `modules_to_save` means, or below it.

    Args:
        key: The tensor's.
        name: The entry.
    """
    module = key.removeprefix(PREFIX).rpartition(".")[0]
    return f".{name}." in f".{module}."


def _is_placed(key: str, saved: Sequence[str], bias: str) -> bool:
    """Whether PEFT finds the module of a full weight without its being named."""
    module, _, parameter = key.rpartition(".")
    if (bias != "none" and parameter == "bias") or module.endswith(f".{BASE_LAYER}"):
        return True
    return is_embedding_weight(key) or any(holds(key, name) for name in saved)
