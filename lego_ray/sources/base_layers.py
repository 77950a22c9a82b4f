"""The weights of a base model by the modules that an adapter names, and how each is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lego_ray.formats.record import SiteFactors
from lego_ray.planning.base_names import BaseNames, pipeline_module, tied_embedding
from lego_ray.sources.base_model import BaseModel, BaseTensor


class BaseLayers:
    """Finds the weights of modules.

    Args:
        base: The base model.
        paths: Paths of all modules that the adapter names.
        fan_in_fan_out: What the adapter's configuration says of layers that store weights transposed.
    """

    def __init__(self, base: BaseModel, paths: Sequence[str], *, fan_in_fan_out: bool) -> None:
        self._is_pipeline = base.is_pipeline
        self._pipeline: dict[tuple[str, str], BaseTensor] = {}
        self._tensors: Mapping[str, BaseTensor] = {}
        if base.is_pipeline:
            for component in base.components:
                for name, tensor in component.tensors.items():
                    if name.endswith(".weight"):
                        module = pipeline_module(component.folder, name.removesuffix(".weight"))
                        self._pipeline.setdefault(module, tensor)
            return
        self._tensors = base.components[0].tensors
        self._names = BaseNames(self._tensors, paths)
        self._has_conv1d = looks_like_conv1d(self._tensors, fan_in_fan_out)

    def find(self, path: str) -> BaseTensor | None:
        """The weight of a module; None if there is none.

        Args:
            path: The module's path, as the adapter has it.
        """
        if self._is_pipeline:
            return self._pipeline.get(pipeline_module("", path))
        name = self._names.find(f"{path}.weight") or tied_embedding(path, self._tensors)
        return None if name is None else self._tensors[name]

    def is_transposed(self, tensor: BaseTensor, site: SiteFactors) -> bool | None:
        """Whether a weight is stored as (d_in, d_out); None if it is not this site's, by its shape.

        Args:
            tensor: The weight.
            site: The site, its factors as they are stored.
        """
        shape, d_out = tensor.span.shape, site.b.shape[0]
        if site.kind == "conv":
            return False if shape == (d_out, *site.a_tail) else None
        plain, turned = (d_out, site.d_in), (site.d_in, d_out)
        if site.kind == "embedding":
            return True if shape == turned else None
        if len(shape) == 4 and shape[2:] == (1, 1) and shape[:2] == plain:
            return False
        if shape not in (plain, turned):
            return None
        if plain != turned:
            return shape == turned
        bias = f"{tensor.span.name.removesuffix('.weight')}.bias"
        return not self._is_pipeline and self._has_conv1d and bias in self._tensors


def looks_like_conv1d(tensors: Mapping[str, BaseTensor], fan_in_fan_out: bool) -> bool:
    """Whether a model stores the weights of layers with a bias as (d_in, d_out).

    That is so if some weight has its outputs, as many as its bias has, on the second axis.

    Args:
        tensors: The model's, by name.
        fan_in_fan_out: What holds where every such weight is square.
    """
    for name, tensor in tensors.items():
        bias = tensors.get(f"{name.removesuffix('.weight')}.bias")
        shape = tensor.span.shape
        if name.endswith(".weight") and bias and len(shape) == 2 and shape[0] != shape[1]:
            return bias.span.shape == shape[1:]
    return fan_in_fan_out
