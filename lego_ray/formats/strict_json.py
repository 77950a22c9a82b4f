"""One strict reading of JSON, for configurations and safetensors headers alike."""

from __future__ import annotations

import json

from lego_ray.errors import MalformedAdapter


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
        raise MalformedAdapter(where, f"it is not valid JSON ({error})", _RESAVE) from None
    if not isinstance(value, dict):
        problem = f"it holds a JSON {type(value).__name__} where an object was expected"
        raise MalformedAdapter(where, problem, _RESAVE)
    return value


_RESAVE = "Download the adapter again, or save it again from the program that made it."


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
