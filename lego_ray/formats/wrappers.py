"""The names that training wrappers put into a module's path, and tensor keys without them.

torch.compile, FSDP, activation checkpointing, DeepSpeed and others hold the model in an attribute of
their own, whose name then stands in every key below it: in front of the path, or inside it where a
part of the model was wrapped. A wrapper has no weights, so the name is left out.

`module`, the attribute of DataParallel, DDP and DeepSpeed, is also what some models call a real part
(LeViT, for one). In front of a prefix that no model has, such as PEFT's, it is a wrapper's. Elsewhere
the adapters of a merge decide together: see `planning.names`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.site_factors import TensorSpan

# Attributes that hold the wrapped model. No model calls a part of its own so.
WRAPPERS = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",  # FSDP
    "_fpw_module",  # older FSDP, fairscale
    "_checkpoint_wrapped_module",  # activation checkpointing and offloading
    "_forward_module",  # Lightning Fabric
    "_original_module",  # likewise
    "_orig_module",  # torch's replicate and partitioning
    "_dmp_wrapped_module",  # TorchRec
    "_module",  # Opacus
)
IN_DOUBT = "module"

_PEFT = "base_model.model."
# Prefixes of keys that say where the path of the model begins.
_STARTS = (
    r"base_model\.model\.|(?:model\.)?diffusion_model\.|unet\.|prior\.|transformer(?:_\d)?\.|"
    r"text_encoders?(?:_\d)?\.|lora_(?:unet|transformer|te\d?|prior)_|lycoris_"
)
_IN_FRONT = re.compile(rf"(?:{IN_DOUBT}\.)+(?={_STARTS})")
_PEFT_INSIDE = re.compile(
    r"^(unet|prior|transformer(?:_\d)?|text_encoder(?:_\d)?)\.(?:base_model\.model\.)+"
)
# In kohya's names every dot is an underscore.
_FLAT = re.compile(rf"(?<=_)(?:{'|'.join(name for name in WRAPPERS if name != '_module')})_")
# In a pattern of a configuration, where a dot may be escaped.
_IN_PATTERN = re.compile(rf"(?<![\w])(?:{'|'.join(WRAPPERS)})\\?\.|\\?\.(?:{'|'.join(WRAPPERS)})$")

# PEFT's own prefix in one.
_PEFT_IN_PATTERN = re.compile(r"^(\^?)(?:base_model\\?\.model\\?\.)+")


def unwrapped(key: str) -> str:
    """A tensor key, or a module's path, without the names of wrappers.

    PEFT's own prefix is one too where it comes twice, of a model that was made a PEFT model twice, or
    after the component of a pipeline.
    """
    if "_mod" in key:
        if key.startswith(("lora_", "lycoris_")):
            path, dot, rest = key.partition(".")
            key = f"{_FLAT.sub('', path)}{dot}{rest}"
        key = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    if key.startswith(f"{IN_DOUBT}."):
        key = _IN_FRONT.sub("", key, count=1)
    while key.startswith(_PEFT) and _IN_FRONT.sub("", key[len(_PEFT) :]).startswith(_PEFT):
        key = _IN_FRONT.sub("", key[len(_PEFT) :])
    return _PEFT_INSIDE.sub(r"\1.", key) if _PEFT in key[1:] else key


def unwrapped_pattern(key: str) -> str:
    """A pattern for modules' paths without the names of wrappers, but with PEFT's own prefix."""
    return _IN_PATTERN.sub("", key) if "_mod" in key else key


def is_twice(keys: Iterable[str]) -> bool:
    """Whether a file is of a model that was made a PEFT model twice, by the keys of its tensors."""
    return any(key.count(_PEFT) > 1 for key in keys)


def of_twice(patterns: Mapping[str, object]) -> dict[str, object]:
    """A table of patterns without PEFT's own prefix, as for a model that was made a PEFT model twice.

    Of any other model PEFT matches paths that do not have the prefix, so that it keeps a pattern from
    matching.

    Args:
        patterns: The table, as a configuration has it.
    """
    found: dict[str, object] = {}
    for key, value in patterns.items():
        found.setdefault(_PEFT_IN_PATTERN.sub(r"\1", unwrapped_pattern(key)), value)
    return found


def by_plain_key(spans: Iterable[TensorSpan], where: str) -> dict[str, TensorSpan]:
    """The tensors of a file by their keys without the names of wrappers, in the file's order.

    Args:
        spans: The tensors.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: If two keys name one tensor, with the wrapper and without.
    """
    found: dict[str, TensorSpan] = {}
    for span in spans:
        key = unwrapped(span.name)
        if key in found:
            problem = (
                f"{found[key].name} and {span.name} name one tensor, apart from the names of "
                "training wrappers"
            )
            hint = "Delete the one that is out of date, or save the adapter again unwrapped."
            raise MalformedAdapter(where, problem, hint)
        found[key] = span
    return found


def without_doubt(site: str) -> str:
    """A path without the parts that may be a wrapper's."""
    return ".".join(part for part in site.split(".") if part != IN_DOUBT)


def named_like(path: str, sites: Collection[str]) -> str:
    """A path without `module` where the sites of a merge show that it is a wrapper's.

    It is one where sites go through the same place and none has `module` there.

    Args:
        path: Of a module.
        sites: Every site of the merge, as it is called there.
    """
    kept: list[str] = []
    for part in path.split("."):
        if part == IN_DOUBT:
            place = _numberless(kept)
            below = {
                parts[len(place)]
                for parts in (site.split(".") for site in sites)
                if len(parts) > len(place) and _numberless(parts[: len(place)]) == place
            }
            if below and IN_DOUBT not in below:
                continue
        kept.append(part)
    return ".".join(kept)


def _numberless(parts: Iterable[str]) -> list[str]:
    return ["#" if part.isdecimal() else part for part in parts]


def check_in_doubt(sites: Iterable[str], where: str) -> None:
    """Passes an adapter none of whose sites is another with `module` in its path.

    Args:
        sites: Its sites.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: Otherwise, naming both.
    """
    names = set(sites)
    for site in sorted(names):
        plain = without_doubt(site) if IN_DOUBT in site else site
        if plain != site and plain in names:
            problem = f"{plain} and {site} name one module, unless `module` is a part of the model"
            hint = "Delete the one that is out of date, or save the adapter again unwrapped."
            raise MalformedAdapter(where, problem, hint)


def wrappers_in(spans: Iterable[TensorSpan]) -> str:
    """A note on the wrappers' names that were left out of an adapter's keys; empty if there are none."""
    names = [span.name for span in spans if unwrapped(span.name) != span.name]
    if not names:
        return ""
    return (
        f"{UNWRAPPED} {len(names)} of its keys, such as {names[0]}, which is read as "
        f"{unwrapped(names[0])}"
    )


UNWRAPPED = "names of training wrappers were left out of"
