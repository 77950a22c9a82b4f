"""`.bin` files: the same bytes torch would load, and no pickle is ever run."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lego_ray.errors import AdapterRefused, MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.torch_bin import read_spans


def saved(value: object, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


class Counting(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.seen: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.seen.update(range(at, at + len(data)))
        return data


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(40, generator=generator)
    return {
        "a": torch.randn(300, 40, generator=generator),
        "b": torch.randn(5, 2, generator=generator).to(torch.bfloat16),
        "c": torch.randn(3, 3, 1, 1, generator=generator).half(),
        "shared": base[8:20].reshape(3, 4),
        "shared too": base[20:],
        "int": torch.arange(7),
    }


def check(data: bytes, expected: dict[str, Tensor]) -> None:
    spans = read_spans(io.BytesIO(data), "w")
    assert {span.name for span in spans} == set(expected)
    for span in spans:
        tensor = expected[span.name]
        raw = torch.frombuffer(bytearray(data[span.start : span.end]), dtype=tensor.dtype)
        assert span.shape == tuple(tensor.shape)
        assert torch.equal(raw.reshape(span.shape), tensor)


def repacked(data: bytes, **options: Any) -> bytes:
    """The same archive as another zip program would write it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", **options) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def replaced(data: bytes, record: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(
                info.filename, content if info.filename.endswith(record) else old.read(info)
            )
    return out.getvalue()


def test_spans_are_where_the_bytes_are() -> None:
    check(saved(tensors()), tensors())


def test_state_dicts_and_parameters_are_read() -> None:
    layer = nn.Linear(3, 4)
    check(saved(layer.state_dict()), dict(layer.state_dict()))
    check(saved(dict(layer.named_parameters())), dict(layer.named_parameters()))


def test_another_zip_program_changes_nothing() -> None:
    check(repacked(saved(tensors())), tensors())


def test_no_tensor_byte_is_read() -> None:
    data = saved(tensors())
    file = Counting(data)
    spans = read_spans(file, "w")
    assert not any(file.seen & set(range(s.start, s.end)) for s in spans if s.end - s.start > 4000)
    assert len(file.seen) < 6000 < len(data) // 5


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


class Exec:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('ran')",))


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (bytearray, (1 << 50,))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    for harm in (Harm(mark), Exec(), Bomb()):
        data = saved({"a": torch.randn(2), "b": harm}, pickle_protocol=protocol)
        with pytest.raises(UnsupportedAdapter, match="its pickle asks for") as caught:
            read_spans(io.BytesIO(data), "w")
        assert "safetensors" in caught.value.hint
        assert not mark.exists()


def test_a_global_the_user_allowed_is_still_refused(tmp_path: Path) -> None:
    data = saved({"a": Harm(tmp_path / "ran")})
    with (
        torch.serialization.safe_globals([Harm, Path.touch, Path]),
        pytest.raises(UnsupportedAdapter),
    ):
        read_spans(io.BytesIO(data), "w")
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_unread(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for data in (
        saved(tensors(), _use_new_zipfile_serialization=False),
        pickle.dumps(Harm(mark)),
        b"",
    ):
        with pytest.raises(UnsupportedAdapter, match="bare pickle") as caught:
            read_spans(io.BytesIO(data), "w")
        assert "safe_serialization=True" in caught.value.hint
    assert not mark.exists()


REFUSED = {
    "not contiguous": (saved({"a": torch.randn(3, 4).T}), "a is not stored contiguously"),
    "signs turned": (saved({"a": torch._neg_view(torch.randn(3, 4))}), "its signs turned"),
    "a list": (saved([torch.randn(3)]), "not a dict"),
    "a number inside": (saved({"a": torch.randn(3), "step": 4}), "holds a int"),
    "compressed": (repacked(saved(tensors()), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "big-endian": (replaced(saved(tensors()), "byteorder", b"big"), "big-endian"),
    "a storage cut short": (replaced(saved(tensors()), "data/0", b"123"), "reaches past"),
    "a record missing": (
        repacked(saved(tensors())).replace(b"data/1", b"data/x"),
        "not in the file",
    ),
    "no pickle": (replaced(saved(tensors()), "data.pkl", b"\x80\x02nothing"), "not a pickle"),
    "an empty pickle": (replaced(saved(tensors()), "data.pkl", b""), "pickle"),
    "another zip": (
        replaced(saved(tensors()), "data.pkl", b"").replace(b"data.pkl", b"data.pkk"),
        "zip",
    ),
    "a file cut short": (saved(tensors())[:-30], "zip directory"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises((MalformedAdapter, UnsupportedAdapter), match=message):
        read_spans(io.BytesIO(data), "w")


SMALL = saved({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4.0)})


@settings(max_examples=300)
@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_a_changed_file_is_read_or_refused(at: int, new: bytes, cut: int) -> None:
    data = SMALL[:at] + new + SMALL[at + cut :]
    try:
        spans = read_spans(io.BytesIO(data), "w")
    except AdapterRefused:
        return
    assert all(0 <= span.start <= span.end <= len(data) for span in spans)
