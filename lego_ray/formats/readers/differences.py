"""What readers of single files make of differences of weights, biases and norms beside the factors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from lego_ray.formats.differences import ENDS, split_end
from lego_ray.formats.readers.outgoing import Finding

LEAVE_OUT = (
    "--full-weights drop leaves such differences out; or leave out with --exclude the adapters that "
    "have them."
)


def of_differences(
    shapes: Mapping[str, tuple[int, ...]], sites: Collection[str]
) -> Iterator[Finding]:
    """What ComfyUI, LyCORIS and diffusers make of the differences in a file.

    Args:
        shapes: Shapes of the file's tensors, by key.
        sites: Modules that have factors.
    """
    found = {key: split for key in shapes if (split := split_end(key))}
    both = next((k for k, (m, end) in found.items() if ENDS[end] == "weight" and m in sites), None)
    if both is not None:
        problem = f"{found[both][0]} has factors and {both}, and readers use only one of the two"
        yield Finding(problem, True, LEAVE_OUT)
    if found:
        yield Finding(
            f"ComfyUI adds differences such as {next(iter(found))} to the base model; diffusers reads "
            "those of Wan's biases, and leaves out or refuses the others"
        )
