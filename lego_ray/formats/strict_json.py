"""One strict reading of JSON, for configurations and safetensors headers alike."""

from __future__ import annotations

import json

from lego_ray.errors import MalformedAdapter

# Deeper than any configuration. The parser's own limit is the interpreter's and shrinks with the depth
# of the call, so what is just within it can be parsed here and not be printed there.
MAX_DEPTH = 64


def parse_object(data: bytes, where: str) -> dict[str, object]:
    """Parses a JSON object, or says why it is none; nothing but `MalformedAdapter` escapes.

    Stricter than `json.loads`: a repeated key is refused (readers disagree on which one counts), and
    so are NaN, Infinity, and strings that are no Unicode text (they could not be printed or hashed).

    Args:
        data: UTF-8, with or without a byte order mark.
        where: What the bytes are, for the error.

    Raises:
        MalformedAdapter: If the bytes are not such an object, or are nested too deep to parse.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\u" in text:  # only an escape can smuggle in a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise MalformedAdapter(where, "its JSON is nested too deep to parse", _RESAVE) from None
    except ValueError as error:
        said = str(error)[:200]
        raise MalformedAdapter(where, f"it is not valid JSON ({said})", _RESAVE) from None
    if _is_deep(value):
        raise MalformedAdapter(where, "its JSON is nested too deep to parse", _RESAVE)
    if not isinstance(value, dict):
        problem = f"it holds a JSON {type(value).__name__} where an object was expected"
        raise MalformedAdapter(where, problem, _RESAVE)
    return value


_RESAVE = "Download the adapter again, or save it again from the program that made it."


def _is_deep(value: object) -> bool:
    """Whether lists and objects lie more than `MAX_DEPTH` deep in each other."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        inside: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inside += [v for v in each.values() if isinstance(v, dict | list)]
            elif isinstance(each, list):
                inside += [v for v in each if isinstance(v, dict | list)]
        level = inside
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} appears twice")
            seen.add(key)
    return out


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
