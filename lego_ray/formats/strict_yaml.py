"""YAML without what makes a file mean other than it says."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 32
# A recipe of a thousand merges has some fifty thousand; the parser takes seconds for this many.
MAX_NODES = 200_000
# Of front matter, which has a few dozen.
MAX_WORDS = 5000
# What fits in 64 bits. Longer whole numbers can be read, and not be written in decimals again.
MAX_NUMBER = 1 << 64


class YamlFault(ValueError):
    """The text is not such YAML; says where, by line and column."""


def load_strict(text: str) -> Any:
    """Loads plain data: no tag, no repeated key, no alias, no merge key, no lone surrogate.

    Args:
        text: One YAML document.

    Raises:
        YamlFault: If it is none.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlFault(f"{place}{said}") from None
    except ValueError as error:  # a date or a number of no such value
        raise YamlFault(str(error)) from None


class _StrictLoader(yaml.SafeLoader):
    _depth = 0
    _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} is an alias; write it out", problem_mark=mark
            )
        if event.tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"{event.tag[:80]} is a tag; leave it out", problem_mark=mark
            )
        self._nodes += 1
        if self._nodes > MAX_NODES:
            problem = f"it has more than {MAX_NODES} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and not _is_text(value):
            raise yaml.MarkedYAMLError(
                problem="half a surrogate pair is not text", problem_mark=node.start_mark
            )
        return value

    def construct_yaml_int(self, node: Any) -> int:
        value = int(super().construct_yaml_int(node))
        if abs(value) >= MAX_NUMBER:
            raise yaml.MarkedYAMLError(
                problem="it is a number of more than 64 bits", problem_mark=node.start_mark
            )
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                problem = "a key is not a plain word"
            elif key.value in seen:
                problem = f"{key.value} is there twice"
            else:
                seen.add(key.value)
                continue
            mark: Any = key.start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return dict(super().construct_mapping(node, deep))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_words(text: str) -> Any:
    """Loads front matter: every scalar a string, nothing deep, nothing long.

    Args:
        text: One YAML document.

    Raises:
        YamlFault: If it is none such.
    """
    try:
        return yaml.load(text, Loader=_WordsLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlFault(str(error)) from None


class _WordsLoader(yaml.BaseLoader):
    """The parser's time grows with the square of the depth, and it reads some 10,000 values a second."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_WORDS:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply, or too long")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
