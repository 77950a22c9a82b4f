"""Which text encoder a name is of, where that depends on the model.

Trainers number the text encoders of a pipeline, and ComfyUI names each after its model. CLIP-L is the
first of FLUX.1's and Stable Diffusion's and the second of HunyuanVideo's and Kandinsky 5's, whose first
is a language model. One name does not show it; the names of a zoo and its base model mostly do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.module_names import DENOISER, LLM, T5, ModuleName, parse_name

_CLIP_L = "clip_l"
_FIRST, _SECOND = "text 1", "text 2"
# Base models of both kinds, in lower case.
_LLM_FIRST = re.compile(r"hunyuan.?video|kandinsky.?5")
_CLIP_FIRST = re.compile(r"flux|stable.?diffusion|\bsd.?(?:xl|v?[123])|xl\b|hidream")
# Modules that only one kind has. HunyuanVideo and FLUX.1 have blocks of one name, and `img_attn_qkv` is
# FLUX.1's `img_attn.qkv` too where dots are underscores.
_HUNYUAN = re.compile(
    r"(?:double_blocks[._]\d+[._](?:img|txt)_(?:mlp[._]fc|mod[._]linear)"
    r"|double_blocks\.\d+\.(?:img|txt)_attn_q"
    r"|single_blocks[._]\d+[._]modulation[._]linear|visual_transformer_blocks)"
)
_EITHER = re.compile(r"(?:double|single)_blocks[._]\d")
_OTHERS = re.compile(
    r"(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks|joint_blocks"
    r"|double_stream_blocks|single_stream_blocks)[._]"
)

_HINT = (
    "Give the name of the base model with --base-model if it would tell. Else merge them separately "
    "(--exclude), or convert them to one spelling first."
)


def parse_names(
    sites: Iterable[str], base_model: str = "", *, strict: bool = True
) -> dict[str, ModuleName]:
    """Takes names apart that are of one model, its text encoders told from each other.

    Args:
        sites: Names of modules of image models.
        base_model: Name of the base model, which decides what the names leave open; may be empty.
        strict: Whether to refuse what cannot be told; or else leave it as its name alone has it.

    Returns:
        What each is, by site.

    Raises:
        LayoutMismatch: If two spellings may or may not be of one text encoder.
    """
    names = {site: parse_name(site) for site in sites}
    texts = [name for name in names.values() if name.is_text]
    if not any(name.label for name in texts) and len({n.number for n in texts} | {1}) == 1:
        return names
    texts += _placed(names, texts, base_model, strict)
    out: dict[str, ModuleName] = {name.site: name for name in texts}
    by_component: dict[str, list[ModuleName]] = defaultdict(list)
    for name in out.values():
        by_component[name.component].append(name)
    for component, mine in by_component.items():
        out.update({name.site: name for name in _apart(component, mine, strict)})
    return {site: out.get(site, name) for site, name in names.items()}


def clip_l_of(sites: Iterable[str], base_model: str = "") -> str:
    """The component that CLIP-L is in a pipeline: the first text encoder unless names show another.

    Args:
        sites: Names of modules.
        base_model: Name of the base model; may be empty.
    """
    names = [parse_name(site) for site in sites]
    return _SECOND if _evidence(names, base_model) == {_SECOND} else _FIRST


def _placed(
    names: Mapping[str, ModuleName], texts: list[ModuleName], base_model: str, strict: bool
) -> list[ModuleName]:
    """ComfyUI's names of CLIP-L where it is not the first text encoder, or may be not."""
    named = [name for name in texts if name.label == _CLIP_L]
    numbered = [name for name in texts if name.number and name.component in (_FIRST, _SECOND)]
    if not named:
        return []
    evidence = _evidence(list(names.values()), base_model)
    if len(evidence) == 1 or not numbered:
        return [replace(name, component=_SECOND) for name in named if evidence == {_SECOND}]
    if strict:
        other = min(numbered, key=lambda name: name.site)
        raise _in_doubt(min(named, key=lambda name: name.site), other)
    return []


def _evidence(names: Iterable[ModuleName], base_model: str) -> set[str]:
    """What shows which text encoder CLIP-L is; both kinds where names contradict each other."""
    found: set[str] = set()
    base = base_model.lower()
    may_be_either = has_second = False
    for name in names:
        if name.component == DENOISER:
            if _HUNYUAN.match(name.path):
                found.add(_SECOND)
            elif _OTHERS.match(name.path):
                found.add(_FIRST)
            may_be_either |= _EITHER.match(name.path) is not None
        elif name.component == LLM and name.number == 1:
            found.add(_SECOND)
        elif (name.component == _FIRST and name.number) or name.label == "clip_g":
            found.add(_FIRST)
        has_second |= name.component == _SECOND and name.number == 2
    if _LLM_FIRST.search(base):
        found.add(_SECOND)
    elif _CLIP_FIRST.search(base):
        found.add(_FIRST)
    if may_be_either and has_second:  # FLUX.1's second is T5
        found.add(_SECOND)
    return found


def _apart(component: str, names: list[ModuleName], strict: bool) -> Iterable[ModuleName]:
    """Names of one component that are of several encoders, each with a component of its own."""
    labels = {name.label: name for name in names if name.label}
    numbers = {name.number: name for name in names if name.number}
    is_several = len(labels) > 1 or (component == LLM and len(numbers) > 1)
    if not is_several:
        return ()
    if labels and numbers:
        if strict:
            one, two = min(labels), min(numbers)
            raise _in_doubt(labels[one], numbers[two])
        return ()
    # Of T5, numbers are those of its place, and encoders of several sizes have labels.
    start = component if component in (T5, LLM) else "text"
    return [replace(name, component=f"{start} {name.label or name.number}") for name in names]


def _in_doubt(one: ModuleName, two: ModuleName) -> LayoutMismatch:
    problem = (
        f"{one.site} and {two.site} may be of one text encoder or of two: which encoder has which "
        "number depends on the model"
    )
    return LayoutMismatch(one.site, problem, _HINT)
