"""Which layout an adapter is in, by its configuration and tensor keys.

Each layout that is read has a module of its own name in this room; the others are recognised so that
the refusal can name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to store adapters.

    Attributes:
        name: As in the catalog's `format` column.
        key: Matches, from the start, a tensor key that only this layout has.
        is_read: Whether this version reads it.
        hint: What to do where it does not.
    """

    name: str
    key: re.Pattern[str]
    is_read: bool
    hint: str = ""


# The first that matches any key wins.
LAYOUTS: tuple[Layout, ...] = (
    Layout("peft", re.compile(r"base_model\.model\."), is_read=True),
    Layout(
        "kohya",
        re.compile(r"lora_(unet|te\d?|transformer)_"),
        is_read=False,
        hint="Load it with diffusers (load_lora_weights) and save it again with PEFT.",
    ),
    Layout(
        "diffusers",
        re.compile(
            r"(unet|transformer|text_encoder(_\d)?)\.|.+\.processor\.to_\w+_lora\.|"
            r".+\.lora_linear_layer\."
        ),
        is_read=False,
        hint="Load it with diffusers (load_lora_adapter) and save the component again with PEFT.",
    ),
    Layout(
        "mlx",
        re.compile(r".+\.lora_[ab]$"),
        is_read=False,
        hint="Convert it to PEFT: transpose lora_a and lora_b, and set lora_alpha to scale times r.",
    ),
)


def recognise(keys: Iterable[str]) -> Layout | None:
    """The layout these tensor keys are in, or None."""
    keys = list(keys)
    return next((layout for layout in LAYOUTS if any(map(layout.key.match, keys))), None)


def check_layout(config: Mapping[str, object] | None, keys: Iterable[str], where: str) -> Layout:
    """Passes an adapter in a layout that this version reads.

    Args:
        config: `adapter_config.json`, parsed, or None where there is none.
        keys: The tensor keys; may be empty where they are not read yet.
        where: The adapter, for the error.

    Returns:
        The layout.

    Raises:
        UnsupportedAdapter: If the layout is another one; named, with what to do.
        MalformedAdapter: If it is no layout known, or PEFT's without the prefix of its keys.
    """
    keys = list(keys)
    layout = recognise(keys)
    says_peft = config is not None and "peft_type" in config
    if says_peft and (layout is None or layout.name == "diffusers"):
        # GPT-2's own modules start with `transformer.` as well, so the configuration decides.
        bare = next((k for k in keys if ".lora_A." in k or ".lora_embedding_A" in k), None)
        if bare is not None:
            problem = (
                f"its keys lack the prefix base_model.model. (such as {bare}); PEFT would load it "
                "without applying any of it"
            )
            raise MalformedAdapter(where, problem, "Rename the keys, or save it again with PEFT.")
    if layout is not None and not layout.is_read:
        raise _unread(f"it is in {layout.name}'s layout", layout, where)
    if config is None:
        problem = "it has no adapter_config.json, so its rank and scaling are unknown"
        raise MalformedAdapter(where, problem, "Copy the file beside the weights.")
    if not says_peft:
        if "fine_tune_type" in config or "lora_parameters" in config:
            raise _unread("its configuration is mlx-lm's", _BY_NAME["mlx"], where)
        problem = "its configuration has no peft_type, so it is not PEFT's"
        raise MalformedAdapter(where, problem, 'Add "peft_type": "LORA" if it is a LoRA of PEFT.')
    if layout is None and keys:
        problem = f"its keys are of no layout known here (such as {keys[0]})"
        raise MalformedAdapter(where, problem, "Save it again with PEFT.")
    return _BY_NAME["peft"]


_BY_NAME = {layout.name: layout for layout in LAYOUTS}


def _unread(what: str, layout: Layout, where: str) -> UnsupportedAdapter:
    return UnsupportedAdapter(where, f"{what}, which this version does not read", layout.hint)
