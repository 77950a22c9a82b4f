"""What a file that others may have written must look like, and its faults in plain words.

A form is a frozen, strict pydantic model: no value is converted, a key it does not name is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
)
from pydantic_core import CoreSchema
from typing_extensions import is_typeddict

_T = TypeVar("_T")
_SHOWN_CHARACTERS = 80
# Faults that one sentence lists.
_SHOWN = 3


class Form(BaseModel):
    """Base of all forms."""

    model_config = ConfigDict(strict=True, frozen=True)


FormT = TypeVar("FormT", bound=Form)


class _AtTheFirst:
    """Stops at a table's first fault: a hostile file has millions, and each would take memory.

    `FailFast` does this for lists; for dicts, only the core of pydantic does.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return cast(CoreSchema, {**handler(source), "fail_fast": True})


Many = Annotated[tuple[_T, ...], Strict(False), FailFast()]  # strict, it would refuse a JSON array
Table = Annotated[dict[str, _T], _AtTheFirst()]


def other_than_0(value: float) -> float:
    """Passes any number but zero."""
    if value == 0:
        raise ValueError("expected a number other than 0")
    return value


def null_is(value: object) -> BeforeValidator:
    """Makes null mean a value, for a field that may be null as well as left out."""
    return BeforeValidator(lambda given: value if given is None else given)


def read_as(
    form: type[FormT],
    content: object,
    refused: Callable[[tuple[str, ...]], Exception],
    where: str = "",
) -> FormT:
    """Holds what was parsed of a file against its form.

    Args:
        form: The form.
        content: Plain data, as a strict parser of JSON or YAML gives it.
        refused: Makes the error of the faults, each `path: what was found; what was expected`.
        where: What to call the file in errors that a validator of the form raises itself.

    Raises:
        Exception: What `refused` makes, if the content does not fit the form.
    """
    try:
        return form.model_validate(content, context=where)
    except ValidationError as error:
        raise refused(tuple(_faults(error, form))) from None


def sentence_of(faults: Sequence[str]) -> str:
    """The first faults, as one sentence without its full stop."""
    more = len(faults) - _SHOWN
    return "; ".join([*faults[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _faults(error: ValidationError, form: type[BaseModel]) -> Iterator[str]:
    for found in error.errors(include_url=False):
        location = found["loc"]
        if found["type"] == "extra_forbidden":
            said = f"no such key. {_nearest(form, str(location[-1]), location[:-1])}"
        elif found["type"] == "missing":
            said = "missing"
        else:
            expected = _expected(found["type"], found["msg"], found.get("ctx", {}))
            said = f"{_shown(found['input'])}; expected {expected}"
        yield f"{_path(location)}: {said}"


# By pydantic's name of a fault, in the words of this package.
_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of names to values",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "literal_error": "{expected}",
}


def _expected(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "is_instance_of" and context.get("class") == "Sequence":
        kind = "list_type"
    words = _EXPECTED.get(kind)
    if words is not None:
        return words.format(**context)
    return message.removeprefix("Value error, expected ").removeprefix("Input should be ")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _path(location: tuple[str | int, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "it"


def _nearest(form: type[Any], key: str, parent: tuple[str | int, ...]) -> str:
    for part in parent:
        if isinstance(part, str) and part in _keys(form):  # else a name that was given
            form = _form_in(_keys(form)[part]) or form
    near = get_close_matches(key, list(_keys(form)), n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(_keys(form))}"


def _keys(form: type[Any]) -> dict[str, Any]:
    """Types of a form's values, by their keys."""
    if is_typeddict(form):
        return dict(form.__annotations__)
    return {name: field.annotation for name, field in form.model_fields.items()}


def _form_in(annotation: Any) -> type[Any] | None:
    """The form within an annotation such as `Sequence[Form] | None`."""
    if get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model or is_typeddict(annotation) else None
    return next((form for each in get_args(annotation) if (form := _form_in(each))), None)
