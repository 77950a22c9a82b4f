"""One style of names in a file: dots, or underscores for dots. Pure.

Readers tell a file's layout by its names, and most do not read one in which the parts of a pipeline are
named in two styles. The denoiser decides, as text encoders have few modules, which tables name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.architectures.text import CLIP, T5
from lego_ray.formats.module_names import DENOISER, LLM, ModuleName, flattened, parse_name
from lego_ray.formats.text_encoders import parse_names

# Blocks that only one of the models with a T5 has.
_SD3 = re.compile(r"joint_blocks(\b|_)")
_FLUX = re.compile(r"(double_blocks|single_blocks|single_transformer_blocks)(\b|_)")

_HINT = "Merge them separately, with --exclude for the others, or convert them to one naming."


def in_one_style(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], base_model: str = ""
) -> dict[str, str]:
    """New names of text encoders' sites where they have another style than the denoiser's.

    Args:
        before: The sites of each adapter, as it has them.
        after: The same as they are to be merged.
        base_model: Name of the base model; may be empty.

    Returns:
        New names by site; none where an adapter has both styles itself.

    Raises:
        LayoutMismatch: If a module is in no table.
    """
    if any(len(_styles(map(parse_name, sites))) > 1 for sites in before):
        return {}
    every = {site for sites in (*before, *after) for site in sites}
    parsed = parse_names(every, base_model, strict=False)
    names = [parsed[site] for site in sorted({site for sites in after for site in sites})]
    wanted = _styles(name for name in names if name.component == DENOISER)
    if len(wanted) != 1:
        return {}
    [is_flat] = wanted
    former = [parsed[site] for sites in before for site in sites]
    t5 = _number_of_t5([*former, *names])
    return {
        name.site: _renamed(name, is_flat, t5)
        for name in names
        if name.is_text and not name.component.startswith(LLM) and name.is_flat != is_flat
    }


def _styles(names: Iterable[ModuleName]) -> set[bool]:
    return {name.is_flat for name in names}


def _number_of_t5(names: Sequence[ModuleName]) -> int | None:
    """Which text encoder of diffusers' pipeline T5 is; None if the names do not show it.

    It is the third where CLIP-G is the second, as in Stable Diffusion 3, the second in Flux, and the
    only one in Chroma.
    """
    if any(name.component == "t5" and name.number == 1 for name in names):
        return 1
    blocks = [name.path for name in names if name.component == DENOISER]
    if any(name.component == "text 2" for name in names) or any(map(_SD3.match, blocks)):
        return 3
    return 2 if any(map(_FLUX.match, blocks)) else None


def _renamed(name: ModuleName, is_flat: bool, t5: int | None) -> str:
    number = {"text 1": 1, "text 2": 2, "text 3": 3}.get(name.component)
    reading = CLIP.read(name.path)
    if name.component == "t5":
        number, reading = (3 if is_flat and t5 != 1 else t5), T5.read(name.path)
    if number is None or reading is None:
        problem = (
            "the adapters name the denoiser with dots and the text encoders with underscores, or the "
            "other way about, and what this module is called in the other style is not known"
        )
        raise LayoutMismatch(name.site, problem, _HINT)
    path = reading.path("original")
    if is_flat:
        return f"lora_te{number}_{flattened(path)}"
    return f"text_encoder{'' if number == 1 else f'_{number}'}.{path}"
