"""What readers of single files make of modules that begin in several ways."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lego_ray.formats.module_names import two_ways
from lego_ray.formats.readers.outgoing import Finding

_HINT = "Save the adapter that has both with one of them, or leave it out with --exclude."
# Of diffusers' pipelines, which its converters of authors' names leave out; and of a trainer alone.
_BESIDE = ("connectors.", "transformer_ref.", "text_conditioner.")
_UNKNOWN = "text_encoder_4."


def of_prefixes(sites: Collection[str]) -> Iterator[Finding]:
    """What diffusers drops of a file for the beginnings of its modules' names.

    Args:
        sites: Modules that have factors.
    """
    if both := two_ways(sites):
        problem = f"{both[0]} and {both[1]} begin in two ways, and diffusers reads one of them"
        yield Finding(problem, True, _HINT)
    has_authors = any(site.startswith("diffusion_model.") for site in sites)
    beside = min((site for site in sites if has_authors and site.startswith(_BESIDE)), default="")
    if beside:
        yield Finding(f"diffusers drops {beside} beside modules that begin with diffusion_model.")
    unknown = min((site for site in sites if site.startswith(_UNKNOWN)), default="")
    if unknown:
        yield Finding(f"diffusers loads no {unknown.partition('.')[0]} and drops {unknown}")
