"""What a module that an adapter names is called in the files of its base model. Pure.

A model's files may have other names than the model in memory, which an adapter's are: transformers adds
or leaves out what a task's class begins its names with, it renamed the trees of vision-language models
and the layers of vision models, and since its release 5 it holds the experts of a layer in one parameter
that the files have in parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from lego_ray.formats.module_names import parse_name
from lego_ray.planning.layer_trees import in_new_layers
from lego_ray.planning.model_trees import in_new_tree

_Way = Callable[[str], str]

# The tensors that a model keeps its input embedding in, by the last parts of their names.
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "shared")
# Names of the layers that may share the input embedding's weight.
_HEADS = ("lm_head", "embed_out", "output")
# What the parts of an expert's parameter are called in files, in the order of its rows.
_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


class BaseNames:
    """The names of a base model's tensors, found by the names that an adapter has.

    Args:
        tensors: Names of the tensors.
        wanted: Paths of the modules and parameters that the adapter names.
    """

    def __init__(self, tensors: Collection[str], wanted: Sequence[str]) -> None:
        self._by_name: dict[str, str] = {}
        for name in sorted(tensors):
            self._by_name.setdefault(_canonical(name), name)
        shared = Counter(map(_in_new_layers, tensors))
        self._by_new_name = {
            new: name for name in tensors if shared[new := _in_new_layers(name)] == 1
        }
        self._exact = set(tensors)
        # A first name may stand before a name of today's tree or of an old one: a bare model of a
        # language model's class has `layers`, and its causal one `model.layers`.
        ways: list[_Way] = [_canonical]
        ways += _ways(map(_canonical, tensors), wanted, _canonical)
        ways += [_then(way, _canonical) for way in _ways(tensors, wanted, _same)]
        self._way = max(ways, key=lambda way: sum(self._has(way(path)) for path in wanted))

    def _has(self, path: str) -> bool:
        return any(self._found(each) is not None for each in (path, f"{path}.weight"))

    def _found(self, plain: str) -> str | None:
        return self._by_name.get(plain) or self._by_new_name.get(in_new_layers(plain))

    def find(self, name: str) -> str | None:
        """The name that a tensor has in the files; None if there is none.

        Args:
            name: Its name in the model.
        """
        if name in self._exact:
            return name
        return self._found(self._way(name)) or self._found(_canonical(name))

    def parts_of_expert(self, parameter: str, number: int) -> tuple[str, ...]:
        """The tensors that hold one expert of a parameter, in the order of its rows; empty if none.

        Args:
            parameter: Path of the parameter that holds all experts.
            number: Which expert.
        """
        module, _, name = parameter.rpartition(".")
        for parts in _PARTS.get(name, ()):
            found = [self.find(f"{module}.{number}.{part}.weight") for part in parts]
            if all(found):
                return tuple(each for each in found if each)
        return ()


def _ways(tensors: Iterable[str], wanted: Iterable[str], form: _Way) -> Iterator[_Way]:
    """Ways to leave out or add the first part of a name that only one of two sets of names has.

    Args:
        tensors: Names of tensors, in the form.
        wanted: Paths that an adapter names.
        form: What brings a path into the form.
    """
    firsts = {name.partition(".")[0] for name in tensors}
    begins = {form(path).partition(".")[0] for path in wanted}
    for begin in sorted(begins - firsts):
        yield lambda path, begin=begin: form(path).removeprefix(f"{begin}.")  # type: ignore[misc]
    for first in sorted(firsts - begins):
        yield lambda path, first=first: f"{first}.{form(path)}"  # type: ignore[misc]


def _then(way: _Way, form: _Way) -> _Way:
    return lambda path: form(way(path))


def _same(name: str) -> str:
    return name


def _canonical(name: str) -> str:
    return in_new_tree(name).replace(".block_sparse_moe.", ".mlp.")


def _in_new_layers(name: str) -> str:
    return in_new_layers(_canonical(name))


def tied_embedding(site: str, tensors: Collection[str]) -> str | None:
    """The input embedding's tensor that an output layer without one of its own shares.

    Args:
        site: Path of the output layer.
        tensors: Names of the tensors of the base model.
    """
    if site.rpartition(".")[2] not in _HEADS:
        return None
    found = [n for n in tensors if n.removesuffix(".weight").rpartition(".")[2] in _EMBEDDINGS]
    return found[0] if len(found) == 1 else None


def is_embedding_of_head(name: str) -> bool:
    """Whether a tensor is one that input embedding and output layer may share."""
    last = name.removesuffix(".weight").rpartition(".")[2]
    return last in _EMBEDDINGS or last in _HEADS


def pipeline_module(component: str, path: str) -> tuple[str, str]:
    """What the names of one module of a pipeline have in common, however a trainer spells them.

    Args:
        component: Folder of the pipeline, such as `transformer`; empty for a name that says it itself.
        path: The module's path.
    """
    return parse_name(f"{component}.{path}" if component else path).module
