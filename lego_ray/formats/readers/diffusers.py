"""diffusers' rules for its own layout: keys by component, and the settings in the header.

`load_lora_weights` gives each component the keys that start with its name, and lets PEFT build the
modules that `lora_adapter_metadata` names. Keys of no component are passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lego_ray.errors import AdapterRefused
from lego_ray.formats.differences import split_end
from lego_ray.formats.diffusers_keys import COMPONENTS, component_of, module_of, parse_factor
from lego_ray.formats.lone_config import METADATA, configs_in
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.readers.differences import LEAVE_OUT
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.suffixes import ALPHA

_AGAIN = "Merge again from the sources; an earlier version may have written it."


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What diffusers makes of an output.

    Args:
        outgoing: It.
    """
    try:
        read = configs_in(outgoing.metadata, outgoing.where)
    except AdapterRefused as error:
        yield Finding(f"diffusers does not apply it as B A: {error.problem}", True, error.hint)
        return
    configs = {component: each.settings for component, each in read.items()}
    settings = parse_object(outgoing.metadata.get(METADATA, "{}").encode(), outgoing.where)
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in outgoing.shapes.items():
        if 0 in shape:
            yield Finding(f"{key} has shape {list(shape)}, and diffusers raises", True, _AGAIN)
        if key.endswith(ALPHA):
            if configs:
                problem = f"alpha is in {key} and in {METADATA}, and diffusers raises at both"
                yield Finding(problem, True, _AGAIN)
            continue
        if split_end(key):
            problem = f"{key} is the difference of a weight, a bias or a norm, and diffusers raises"
            yield Finding(problem, True, f"Ask for --layout comfyui. {LEAVE_OUT}")
            continue
        factor = parse_factor(key)
        if factor is None or component_of(key) not in COMPONENTS:
            problem = f"{key} is of no component that diffusers knows, and it drops it"
            yield Finding(problem, True, _AGAIN)
            continue
        halves.setdefault(factor.site, {})[factor.half] = shape
    for site, found in halves.items():
        yield from _of_site(site, found, configs, settings)


def _of_site(
    site: str,
    found: Mapping[str, tuple[int, ...]],
    configs: Mapping[str, PeftConfig],
    settings: Mapping[str, object],
) -> Iterator[Finding]:
    if len(found) != 2:
        yield Finding(f"{site} has one factor of two, and diffusers raises", True, _AGAIN)
        return
    component = component_of(site)
    config = configs.get(component)
    if config is None:
        return  # alpha is the rank
    # transformers 5 has no such part, and diffusers writes names without it.
    module = module_of(site).removeprefix("text_model.")
    rank, wanted = found["A"][0], config.rank_of(module)
    if (rank, found["B"][1]) != (wanted, wanted):
        problem = f"{site} has rank {rank} and {METADATA} {wanted}; diffusers raises"
        yield Finding(problem, True, _AGAIN)
    elif config.scaling_of(module) != 1:
        problem = (
            f"diffusers multiplies {site} by {config.scaling_of(module):g}; it is stored for 1"
        )
        yield Finding(problem, True, _AGAIN)
    targets = settings.get(f"{component}.target_modules")
    if isinstance(targets, list) and module not in targets:
        problem = f"{METADATA} does not name {site}, and diffusers drops its factors"
        yield Finding(problem, True, _AGAIN)
