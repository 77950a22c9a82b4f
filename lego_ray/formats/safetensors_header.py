"""The header of a safetensors file: what it holds and where, from its first bytes alone.

A file is 8 bytes of little-endian header length, the header (JSON), then the tensors' bytes. Whoever
reads one asks the store for the first `LENGTH_BYTES`, then for the header, and hands both over here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.forms import Form, Many, Table, null_is, read_as, sentence_of
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.strict_json import parse_object

LENGTH_BYTES = 8

# The reference implementation's limit; a hostile length is refused before anything is allocated.
MAX_HEADER_BYTES = 100_000_000

# No layer has more dimensions than a 3-D convolution's 5; the margin costs nothing.
MAX_DIMENSIONS = 16

# No module's path is longer; a name is repeated wherever the tensor is spoken of.
MAX_NAME_CHARACTERS = 1000

_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}

_TRUNCATED = "The file is damaged or cut short: download or save it again."


_Size = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Entry(TypedDict):
    """One of thousands: made twice as fast as a form."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    dtype: str
    shape: Annotated[Many[_Size], Field(max_length=MAX_DIMENSIONS)]
    data_offsets: Annotated[Many[_Size], Field(min_length=2, max_length=2)]


# How a pointer begins, as far as it is read (`version https://git-lfs...`), and more than it can have.
_LFS = b"version "
_LFS_BYTES = 1024
_PULL = "Run `git lfs pull` in the repository that it is in, or download the file again."


class _Header(Form):
    metadata: Annotated[Table[str], null_is({})]
    tensors: Table[_Entry]


def is_lfs_pointer(prefix: bytes, n_bytes: int) -> bool:
    """Whether a file is what Git LFS leaves in place of one that was not downloaded.

    Args:
        prefix: The file's first `LENGTH_BYTES` bytes or more.
        n_bytes: Size of the file.
    """
    return prefix.startswith(_LFS) and n_bytes < _LFS_BYTES


def header_length(prefix: bytes, n_bytes: int, where: str) -> int:
    """Reads how long the header is, refusing what no honest file has.

    Args:
        prefix: The file's first `LENGTH_BYTES` bytes, or the whole of a shorter file.
        n_bytes: Size of the file.
        where: The file, for the error.

    Returns:
        Length in bytes of the header that follows the prefix.

    Raises:
        MalformedAdapter: If the file is shorter than a header, or the length is beyond the file or
            `MAX_HEADER_BYTES`.
    """
    if len(prefix) < LENGTH_BYTES or n_bytes < LENGTH_BYTES + 2:
        raise MalformedAdapter(where, f"{n_bytes} bytes are not a safetensors file", _TRUNCATED)
    if is_lfs_pointer(prefix, n_bytes):
        raise MalformedAdapter(where, "it is a pointer of Git LFS, not the file itself", _PULL)
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        problem = f"its header claims {length} bytes, the limit is {MAX_HEADER_BYTES}"
        raise MalformedAdapter(where, problem, "This is not a safetensors file, or a hostile one.")
    if length < 2 or LENGTH_BYTES + length > n_bytes:
        problem = f"its header claims {length} bytes, the file has {n_bytes}"
        raise MalformedAdapter(where, problem, _TRUNCATED)
    return length


def parse_header(
    header: bytes, n_bytes: int, where: str
) -> tuple[tuple[TensorSpan, ...], dict[str, str]]:
    """Reads the tensor table, and vouches that every span is inside the file and of its tensor's size.

    An element type not known here is let through with its size unchecked: it matters only if that
    tensor is used, and whoever uses one checks the type.

    Args:
        header: The header's bytes, without the 8 that give its length.
        n_bytes: Size of the file.
        where: The file, for the error.

    Returns:
        The tensors in file order, offsets absolute, and the file's metadata.

    Raises:
        MalformedAdapter: If the header is not JSON of the expected form, or its offsets overlap,
            leave gaps, reach past the file, or disagree with shape and type.
    """
    if not header.startswith(b"{"):
        raise MalformedAdapter(where, "its header is not a JSON object", _TRUNCATED)
    table = parse_object(header, where)
    longest = max(table, key=len, default="")
    if len(longest) > MAX_NAME_CHARACTERS:
        problem = f"the name of a tensor, {longest[:80]}..., has {len(longest)} characters"
        raise MalformedAdapter(where, problem, f"Names have {MAX_NAME_CHARACTERS} at most.")
    content = {"metadata": table.pop("__metadata__", None), "tensors": table}
    found = read_as(
        _Header, content, lambda faults: MalformedAdapter(where, sentence_of(faults), _TRUNCATED)
    )
    data_start = LENGTH_BYTES + len(header)
    spans = [_span(name, entry, data_start, where) for name, entry in found.tensors.items()]
    spans.sort(key=lambda span: (span.start, span.end, span.name))

    expected = data_start
    for span in spans:
        if span.start != expected:
            kind = "overlaps the tensor before it" if span.start < expected else "leaves a gap"
            raise MalformedAdapter(where, f"{span.name} {kind} in the file", _TRUNCATED)
        expected = span.end
    if expected != n_bytes:
        problem = f"its tensors end at byte {expected}, the file has {n_bytes}"
        raise MalformedAdapter(where, problem, _TRUNCATED)
    return tuple(spans), found.metadata


def _span(name: str, entry: _Entry, data_start: int, where: str) -> TensorSpan:
    start, end = entry["data_offsets"]
    if start > end:
        raise MalformedAdapter(where, f"{name} ends before it starts in the file", _TRUNCATED)
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype in _BITS:
        bits = _BITS[dtype]
        for n in shape:
            bits *= n
        if bits != 8 * (end - start):
            problem = f"{name} is {dtype} {list(shape)} and is given {end - start} bytes"
            raise MalformedAdapter(where, problem, _TRUNCATED)
    return TensorSpan(name, dtype, shape, data_start + start, data_start + end)
