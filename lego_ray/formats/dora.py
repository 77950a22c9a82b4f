"""DoRA in files that stand alone, and mlx-lm's: which numbers the magnitudes are of, by their shape.

With V = W + s B A and W the base model's weight, DoRA (arXiv 2402.09353) makes the weight
`m / (|V| + e) V`. The trainers differ in what m and |V| are of:

- PEFT, diffusers and mlx-lm: the outputs, which are the rows of V; e = 0. PEFT stores m with shape
  (d_out,), of a convolution (1, d_out, 1, 1).
- LyCORIS and OneTrainer, `.dora_scale`: the outputs, shape (d_out, 1, ...), or the inputs, shape
  (1, d_in, 1, ...), as was set for training (`wd_on_output`, `decompose_output_axis`). LyCORIS before
  3.1 has the inputs alone. e is the step of float32 at 1, an option of OneTrainer's.

So the shape tells which it is, except of a convolution with as many inputs as outputs. There the other
magnitudes of the file tell; if they do not, `.dora_scale` is of the inputs, as ComfyUI reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.factors import RESAVE, check_dtype
from lego_ray.formats.site_factors import Derived, SiteFactors, TensorSpan

_SCALE = ".dora_scale"
_KEY = re.compile(
    rf"(?P<stem>.+?)(?:{re.escape(_SCALE)}|\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?)"
)
# What LyCORIS and OneTrainer add to a length: torch.finfo(torch.float32).eps.
_EPSILON = 2.0**-23


OF_OUTPUTS = (
    "its dora_scale is of the outputs of modules, and is taken as LyCORIS and OneTrainer train it; "
    "ComfyUI divides by the lengths of the base model's rows instead, so there it has another effect"
)


def split_magnitude(key: str) -> str | None:
    """What stands before the suffix in the key of a file's magnitudes; None for any other key."""
    found = _KEY.fullmatch(key)
    return found["stem"] if found else None


def rescaled_sites(
    sites: tuple[SiteFactors, ...], magnitudes: Mapping[str, TensorSpan], where: str
) -> tuple[SiteFactors, ...]:
    """The sites of a file, those with magnitudes marked as computed with the base model.

    Args:
        sites: What they would be as plain LoRA.
        magnitudes: DoRA's, by site.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: If magnitudes have no site, or do not fit it.
        UnsupportedAdapter: If their type is not merged.
    """
    stray = sorted(magnitudes.keys() - {site.site for site in sites})
    if stray:
        problem = f"it has {magnitudes[stray[0]].name} and no factors beside it"
        raise MalformedAdapter(where, problem, RESAVE)
    is_peft = any(_is_pefts(span) for span in magnitudes.values())
    epsilon = 0.0 if is_peft else _EPSILON
    return tuple(
        site
        if (span := magnitudes.get(site.site)) is None
        else rescaled(site, span, _columns(site, span, where, is_peft), epsilon)
        for site in sites
    )


def rescaled(
    site: SiteFactors, span: TensorSpan, columns: int = 0, epsilon: float = 0.0
) -> SiteFactors:
    """A site marked as a DoRA.

    Args:
        site: What it would be as plain LoRA.
        span: Its magnitudes.
        columns: As in `Derived`.
        epsilon: As in `Derived`.
    """
    derived = Derived(
        init="",
        rank=site.rank,
        scaling=site.scaling,
        magnitude=span,
        columns=columns,
        epsilon=epsilon,
        alpha=site.alpha,
        scalar=site.scalar,
    )
    rank = min(site.rank, site.d_in, site.d_out)
    return replace(site, rank=rank, scaling=1.0, alpha=None, scalar=None, derived=derived)


def note_of_outputs(sites: Iterable[SiteFactors]) -> tuple[str, ...]:
    """What to tell of magnitudes that readers take in two ways, without a full stop."""
    found = (site.derived for site in sites if site.derived is not None)
    return (OF_OUTPUTS,) if any(each.epsilon and not each.columns for each in found) else ()


def _is_pefts(span: TensorSpan) -> bool:
    return len(span.shape) == 1 or not span.name.endswith(_SCALE)


def _columns(site: SiteFactors, span: TensorSpan, where: str, is_peft: bool) -> int:
    """Number of inputs that the magnitudes are of; 0 if they are of the outputs."""
    check_dtype(span, where)
    count, inputs = math.prod(span.shape), site.a_tail[0]
    if count and max(span.shape) == count:
        along_inputs = len(span.shape) > 1 and span.shape[0] == 1
        of_outputs = count == site.d_out
        if along_inputs and count == inputs and not (is_peft and of_outputs):
            return inputs
        if of_outputs:
            return 0
    problem = (
        f"{span.name} has shape {list(span.shape)}, and {site.site} has {site.d_out} outputs and "
        f"{inputs} inputs"
    )
    raise MalformedAdapter(where, problem, RESAVE)
