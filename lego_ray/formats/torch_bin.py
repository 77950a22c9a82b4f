"""Where the tensors of a `.bin` (torch.save) file lie, without running its pickle or reading them.

Such a file is a zip: `data.pkl` describes the tensors, `data/0`, `data/1`... hold their bytes, stored
uncompressed. The description is read twice: first as a list of opcodes, whose globals must all be
among the few a state dict needs, then by torch's own weights-only unpickler, with storages on the
`meta` device. Neither can run code, and no byte of a tensor is read.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.safetensors_header import MAX_NAME_CHARACTERS
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.lazy import torch

# A description takes about 200 bytes a tensor; this is room for 80,000 tensors. Unpickled, the worst
# takes some sixty times as much.
MAX_PICKLE_BYTES = 16 << 20
# The zip's directory takes about 70 bytes a tensor.
MAX_DIRECTORY_BYTES = 16 << 20

# The start torch pads every record to, in all releases that wrote zip files with aligned records.
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_HAS_DESCRIPTOR = 1 << 3
_ZIP64 = 0xFFFFFFFF

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")

# All that describing a dict of plain tensors takes. Narrower than torch's own list on purpose: that
# one has `bytearray`, which a hostile file can ask for by the terabyte.
_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {name}Storage" for name in _STORAGES),
    }
)

_RESAVE = (
    "Save the adapter as safetensors (PEFT: save_pretrained with safe_serialization=True) from a "
    "program you trust it in."
)


def read_spans(file: BinaryIO, where: str) -> tuple[TensorSpan, ...]:
    """Lists the tensors of a torch zip file, in file order, offsets absolute.

    Tensors that share storage come out as overlapping spans.

    Args:
        file: Readable and seekable. Only the zip directory, the description and at worst 30 bytes a
            tensor are read from it.
        where: The file, for the error.

    Raises:
        UnsupportedAdapter: If the file is a bare pickle of the time before zip, needs more than a
            dict of contiguous little-endian tensors, or names a global that a state dict does not.
        MalformedAdapter: If the file is damaged or contradicts itself.
    """
    archive, root = _open(file, where)
    with archive:
        order = f"{root}byteorder"  # absent before torch 2.1, which wrote little-endian
        if order in archive.namelist() and _record(archive, order, where) != b"little":
            raise UnsupportedAdapter(where, "its tensors are big-endian", _RESAVE)
        description = _record(archive, f"{root}data.pkl", where)
        _check_globals(description, where)
        tensors, keys = _describe(description, where)
        starts = _storage_starts(archive, file, f"{root}data/", where)
    spans = [_span(name, tensor, keys, starts, where) for name, tensor in tensors.items()]
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.name)))


def _open(file: BinaryIO, where: str) -> tuple[zipfile.ZipFile, str]:
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        problem = "it is not a torch zip file; a bare pickle is never loaded, since it can run code"
        raise UnsupportedAdapter(where, problem, _RESAVE)
    try:
        archive = zipfile.ZipFile(cast(BinaryIO, _InPieces(file)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as error:
        raise MalformedAdapter(where, f"its zip directory is unreadable ({error})") from None
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1 or len(set(names)) != len(names):
        raise MalformedAdapter(
            where, "it is a zip file, but not one that torch.save wrote", _RESAVE
        )
    return archive, roots[0]


class _InPieces:
    """A file no read of which is larger than a directory can be: the zip says itself how long it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Reads some bytes, or all to the end where `size` is negative."""
        if size <= MAX_DIRECTORY_BYTES:
            data = self._file.read(size if size >= 0 else MAX_DIRECTORY_BYTES + 1)
            if len(data) <= MAX_DIRECTORY_BYTES:
                return data
        raise ValueError(f"a part of it takes more than {MAX_DIRECTORY_BYTES} bytes")


def _record(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_PICKLE_BYTES:
        problem = f"its record {name} is compressed, or larger than {MAX_PICKLE_BYTES} bytes"
        raise MalformedAdapter(where, problem, _RESAVE)
    try:
        return archive.read(info)
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        RuntimeError,  # it is encrypted
        ValueError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise MalformedAdapter(where, f"its record {name} is unreadable ({error})") from None


def _check_globals(description: bytes, where: str) -> None:
    try:
        used = {
            str(argument) if opcode.name == "GLOBAL" else opcode.name
            for opcode, argument, _ in pickletools.genops(description)
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
        }
    except Exception as error:  # genops raises whatever a bad opcode provokes
        raise MalformedAdapter(
            where, f"its description is not a pickle ({error})", _RESAVE
        ) from None
    strange = sorted(used - _GLOBALS)
    if strange:
        problem = f"its pickle asks for {strange[0].replace(' ', '.')}, which no plain tensor needs"
        raise UnsupportedAdapter(where, problem, f"It was not run. {_RESAVE}")


def _describe(description: bytes, where: str) -> tuple[dict[str, Any], dict[int, str]]:
    """The tensors by name, on the meta device, and the record key of each storage by its identity."""
    from torch._weights_only_unpickler import Unpickler
    from torch.serialization import StorageType

    storage: Any = torch.storage  # untyped in torch
    storages: dict[str, Any] = {}

    def persistent_load(saved: object) -> object:
        match saved:
            case ("storage", StorageType() as kind, str(key), str(), int(numel)) if (
                0 <= numel < 1 << 60
            ):
                pass
            case _:
                raise ValueError("a tensor's storage is not described as torch does")
        if key not in storages:
            dtype = kind.dtype
            untyped = storage.UntypedStorage(numel * dtype.itemsize, device="meta")
            storages[key] = storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
        return storages[key]

    unpickler: Any = Unpickler(io.BytesIO(description), encoding="utf-8")
    unpickler.persistent_load = persistent_load
    try:
        loaded = unpickler.load()
    except Exception as error:  # the unpickler raises whatever a bad description provokes
        raise MalformedAdapter(where, f"its description is damaged ({error})", _RESAVE) from None
    if not isinstance(loaded, dict):
        raise UnsupportedAdapter(where, "it is not a dict of tensors", _RESAVE)
    for name, value in loaded.items():
        if isinstance(name, str) and len(name) > MAX_NAME_CHARACTERS:
            problem = f"the name of a tensor, {name[:80]}..., has {len(name)} characters"
            raise MalformedAdapter(where, problem, f"Names have {MAX_NAME_CHARACTERS} at most.")
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UnsupportedAdapter(
                where, f"it holds a {type(value).__name__} beside its tensors", _RESAVE
            )
    return dict(loaded), {s._untyped_storage._cdata: key for key, s in storages.items()}


def _storage_starts(
    archive: zipfile.ZipFile, file: BinaryIO, prefix: str, where: str
) -> dict[str, tuple[int, int]]:
    """First byte and size of each storage, by key."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [info.header_offset for info in infos[1:]] + [archive.start_dir]
    starts: dict[str, tuple[int, int]] = {}
    for info, end in zip(infos, ends, strict=True):
        if not info.filename.startswith(prefix):
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnsupportedAdapter(where, f"its record {info.filename} is compressed", _RESAVE)
        start = _start(info, end, file)
        if start < 0 or start + info.file_size > end:
            raise MalformedAdapter(where, f"its record {info.filename} overlaps the next", _RESAVE)
        starts[info.filename.removeprefix(prefix)] = (start, info.file_size)
    return starts


def _start(info: zipfile.ZipInfo, end: int, file: BinaryIO) -> int:
    """First byte of a record's data.

    Counted back from the next record, and believed where it falls on torch's alignment; else read
    from the record's own header, one small request for each. Saves hundreds of them on a remote file.
    """
    wide = info.header_offset >= _ZIP64 or info.file_size >= _ZIP64
    descriptor = (24 if wide else 16) if info.flag_bits & _HAS_DESCRIPTOR else 0
    start = end - descriptor - info.file_size
    name_end = info.header_offset + _LOCAL_HEADER + len(info.filename.encode())
    if start % _ALIGNMENT == 0 and name_end <= start <= name_end + 0xFFFF:
        return start
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        return -1
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + _LOCAL_HEADER + name + extra


def _span(
    name: str,
    tensor: Any,
    keys: Mapping[int, str],
    starts: Mapping[str, tuple[int, int]],
    where: str,
) -> TensorSpan:
    key = keys.get(tensor.untyped_storage()._cdata) if tensor.device.type == "meta" else None
    if key is None or key not in starts:
        raise MalformedAdapter(where, f"{name} names a storage that is not in the file", _RESAVE)
    if tensor.is_neg() or tensor.is_conj():
        raise UnsupportedAdapter(where, f"{name} is stored with its signs turned", _RESAVE)
    if not tensor.is_contiguous():
        raise UnsupportedAdapter(where, f"{name} is not stored contiguously", _RESAVE)
    record_start, size = starts[key]
    start = record_start + tensor.storage_offset() * tensor.element_size()
    end = start + tensor.numel() * tensor.element_size()
    if end > record_start + size:
        raise MalformedAdapter(where, f"{name} reaches past its storage", _RESAVE)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpan(name, _DTYPES.get(dtype, dtype), tuple(tensor.shape), start, end)


_DTYPES: Mapping[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
