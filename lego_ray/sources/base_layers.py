"""The weights of a base model by the modules that an adapter names, and how each is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import UnusableBase
from lego_ray.formats.architectures import ARCHITECTURES, Architecture, Reading
from lego_ray.formats.architectures.checkpoints import module_in_checkpoint
from lego_ray.formats.module_names import DENOISER, flattened, parse_name
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.planning.base_names import BaseNames, pipeline_module, tied_embedding
from lego_ray.planning.by_head import is_fused_h3
from lego_ray.sources.base_model import BaseModel, BaseTensor, Component

# The second of two transformers that have the same modules (Wan 2.2).
_SECOND = "transformer_2"


@dataclass(frozen=True, slots=True)
class Layer:
    """The weight of one module of an adapter.

    Attributes:
        tensors: The base model's tensors that hold it, its rows one after another.
        is_swapped: Whether the two halves of its rows stand the other way about in the base model.
        rows: The rows of the one tensor that are the module's, if it holds several modules; else None.
    """

    tensors: tuple[BaseTensor, ...]
    is_swapped: bool = False
    rows: tuple[int, int] | None = None


class BaseLayers:
    """Finds the weights of modules. An image model may have other names than the adapter.

    A pipeline of diffusers has diffusers' names, and a checkpoint in one file those of the authors.

    Args:
        base: The base model.
        paths: Paths of all modules that the adapter names.
        fan_in_fan_out: What the adapter's configuration says of layers that store weights transposed.
        of_first: Whether the first of two transformers with the same modules is meant; else they are
            refused.
    """

    def __init__(
        self,
        base: BaseModel,
        paths: Sequence[str],
        *,
        fan_in_fan_out: bool = False,
        of_first: bool = False,
    ) -> None:
        folders = {_part_of(component): component for component in base.components}
        self._is_file = bool(base.file)
        self._uri = base.uri
        self._is_pipeline = base.is_pipeline or self._is_file or "" not in folders
        self._pipeline: dict[tuple[str, str], BaseTensor] = {}
        self._biases: dict[tuple[str, str], BaseTensor] = {}
        self._tensors: Mapping[str, BaseTensor] = {}
        if self._is_pipeline:
            for folder, component in folders.items():
                for name, tensor in component.tensors.items():
                    for end, found in ((".weight", self._pipeline), (".bias", self._biases)):
                        if name.endswith(end):
                            path = name.removesuffix(end)
                            module = (
                                module_in_checkpoint(path)
                                if self._is_file
                                else pipeline_module(folder, path)
                            )
                            found.setdefault(module, tensor)
            self._models = tuple(_models_of(paths))
            unsure = sites_of_two(folders, paths)
            if unsure and not of_first:
                problem = (
                    "it has two transformers with the same modules, and "
                    f"{unsure[0]} may be of either"
                )
                hint = f"Give the folder of one with --base: .../transformer or .../{_SECOND}."
                raise UnusableBase(base.uri, problem, hint)
            return
        for path in paths:
            self._check_order(path)
        self._tensors = base.components[0].tensors
        self._names = BaseNames(self._tensors, paths)
        self._has_conv1d = looks_like_conv1d(self._tensors, fan_in_fan_out)

    @property
    def is_pipeline(self) -> bool:
        """Whether it is an image model's, so that its names may be other than the adapter's."""
        return self._is_pipeline

    def find(self, path: str) -> Layer | None:
        """The weight of a module; None if there is none.

        Args:
            path: The module's path, as the adapter has it.
        """
        if self._is_pipeline:
            tensor = self._pipeline.get(pipeline_module("", path))
            if tensor is None:
                return self._in_authors(path) if self._is_file else self._by_tables(path)
            if self._is_file:
                self._check_order(path)
            return Layer((tensor,))
        name = self._names.find(f"{path}.weight") or tied_embedding(path, self._tensors)
        return None if name is None else Layer((self._tensors[name],))

    def tensor(self, path: str, part: str) -> BaseTensor | None:
        """A tensor of a module of a pipeline whose name differs in spelling only; None if there is none.

        Args:
            path: The module's path, as the adapter has it.
            part: `weight` or `bias`.
        """
        found = self._pipeline if part == "weight" else self._biases
        return found.get(pipeline_module("", path))

    def _by_tables(self, path: str) -> Layer | None:
        """The weight of a module that the adapter names as the authors of a model do."""
        name = parse_name(path)
        for model in self._models:
            reading = model.read(name.path) if name.component == DENOISER else None
            if reading is None or reading.side != "original":
                continue
            parts = (reading.path("diffusers", n) for n in range(len(reading.row.diffusers)))
            sites = (model.site(f"{model.component}.", part) for part in parts)
            found = [self._pipeline.get(pipeline_module("", site)) for site in sites]
            tensors = tuple(tensor for tensor in found if tensor is not None)
            if len(tensors) == len(found):
                return Layer(tensors, reading.row.is_swapped)
        return None

    def _in_authors(self, path: str) -> Layer | None:
        """The weight of a module that the adapter names as diffusers does, or as other authors do."""
        name = parse_name(path)
        for model in self._models:
            reading = model.read(name.path) if name.component == DENOISER else None
            if reading is None:
                continue
            template = reading.row.diffusers[reading.part]
            for row in (row for row in model.rows if template in row.diffusers):
                part = row.diffusers.index(template)
                there = Reading(row, "diffusers", part, reading.numbers).path("original")
                tensor = self._pipeline.get((DENOISER, flattened(there)))
                if tensor is None:
                    continue
                self._check_order(there)
                is_swapped = row.is_swapped and reading.side == "diffusers"
                if not row.is_fused or reading.side == "original":
                    return Layer((tensor,), is_swapped)
                rows = row.rows_of(part, tensor.span.shape[-1], tensor.span.shape[0])
                return None if rows is None else Layer((tensor,), is_swapped, rows)
        return None

    def _check_order(self, path: str) -> None:
        """Passes a module whose rows stand in one order in all files with the authors' names."""
        if is_fused_h3(path):
            problem = (
                f"the rows of {path} may stand in either of two orders in it: by heads, as MiniMax "
                "published them, or q, k and v one after another, as Comfy-Org did"
            )
            hint = "Give the model in diffusers' layout, whose order is known."
            raise UnusableBase(self._uri, problem, hint)

    def is_transposed(self, layer: Layer, site: SiteFactors) -> bool | None:
        """Whether a weight is stored as (d_in, d_out); None if it is not this site's, by its shape.

        Args:
            layer: The weight.
            site: The site, its factors as they are stored.
        """
        tensor, d_out = layer.tensors[0], site.d_out
        shape = shape_of(layer)
        if site.kind == "conv":
            is_one_by_one = all(n == 1 for n in site.a_tail[1:])
            wanted = {(d_out, *site.a_tail), (d_out, site.d_in) if is_one_by_one else ()}
            return False if shape in wanted else None
        plain, turned = (d_out, site.d_in), (site.d_in, d_out)
        if site.kind == "embedding":
            return True if shape == turned else None
        if len(shape) > 2 and shape[:2] == plain and all(n == 1 for n in shape[2:]):
            return False
        if len(layer.tensors) > 1 or layer.is_swapped or layer.rows:
            return False if shape == plain else None
        if shape not in (plain, turned):
            return None
        if plain != turned:
            return shape == turned
        bias = f"{tensor.span.name.removesuffix('.weight')}.bias"
        return not self._is_pipeline and self._has_conv1d and bias in self._tensors


def sites_of_two(folders: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Modules that may be of either of two transformers that a pipeline has (Wan 2.2).

    Args:
        folders: Of the pipeline's components.
        paths: Paths of modules, as an adapter has them.
    """
    if not {_SECOND, "transformer"} <= set(folders):
        return []
    told = ("transformer.", f"{_SECOND}.")
    names = (parse_name(path) for path in paths)
    return [n.site for n in names if n.component == DENOISER and n.prefix not in told]


def rows_in(span: TensorSpan, rows: tuple[int, int]) -> TensorSpan:
    """Where some rows of a tensor lie.

    Args:
        span: The tensor.
        rows: The first of them, and one past the last.
    """
    size = (span.end - span.start) // span.shape[0]
    return TensorSpan(
        name=f"{span.name}[{rows[0]}:{rows[1]}]",
        dtype=span.dtype,
        shape=(rows[1] - rows[0], *span.shape[1:]),
        start=span.start + rows[0] * size,
        end=span.start + rows[1] * size,
    )


def shape_of(layer: Layer) -> tuple[int, ...]:
    """The shape of a weight, its parts one after another; () if they do not fit together."""
    shapes = [tensor.span.shape for tensor in layer.tensors]
    if layer.rows is not None:
        return (layer.rows[1] - layer.rows[0], *shapes[0][1:])
    if len(shapes) == 1:
        return shapes[0]
    if not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _part_of(component: Component) -> str:
    """What a component is of a pipeline; of a denoiser's folder by itself, by its configuration."""
    kind = component.config.get("_class_name")
    if component.folder or not isinstance(kind, str):
        return component.folder
    return "unet" if kind.startswith("UNet") else "transformer" if "Transformer" in kind else ""


def _models_of(paths: Sequence[str]) -> Iterator[Architecture]:
    """The models whose tables have every module of the denoiser that an adapter names."""
    names = [name.path for name in map(parse_name, paths) if name.component == DENOISER]
    for model in ARCHITECTURES:
        if all(model.read(path) is not None for path in names):
            yield model


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
