"""Hashes of what was read: as tuples of text say them, and in a twentieth of the memory."""

from __future__ import annotations

import hashlib
import pickle
import sys

import pytest

from lego_ray.sources.tensor_hashes import AllHashes, TensorHashes


def pairs_of(number: int, names: tuple[str, ...] = ("a", "b")) -> tuple[tuple[str, str], ...]:
    return tuple((n, hashlib.sha256(f"{number} {n}".encode()).hexdigest()) for n in names)


def test_they_say_what_tuples_of_text_say_in_any_order_of_adding() -> None:
    plain = {number: pairs_of(number, ("a", "b") if number % 2 else ("c",)) for number in range(9)}
    plain[4] = ()
    found = TensorHashes((number, plain[number]) for number in (3, 1, 8, 0, 2, 4, 7, 6, 5))
    assert found == plain
    assert list(found) == list(plain)
    assert 9 not in found
    assert found.get(9, ()) == ()
    found.add(4, pairs_of(40))
    assert found[4] == pairs_of(40)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_hash_that_is_none_is_refused() -> None:
    for wrong in ("ab", "g" * 64, ""):
        with pytest.raises(ValueError, match=r"sha256|hexadecimal"):
            TensorHashes([(0, [("a", wrong)])])


def test_parts_of_one_adapter_are_one_set() -> None:
    parts = [TensorHashes([(1, pairs_of(1))]), {1: pairs_of(1, ("b", "c")), 0: pairs_of(0)}]
    found = AllHashes(3, parts)
    assert dict(found) == {0: set(pairs_of(0)), 1: set(pairs_of(1, ("a", "b", "c"))), 2: set()}
    with pytest.raises(KeyError):
        found[3]


def test_an_adapter_takes_32_bytes_a_tensor_and_its_names_nothing() -> None:
    names = tuple(f"base_model.model.layers.{n}.q_proj.lora_A.weight" for n in range(100))
    found = TensorHashes((number, pairs_of(number, names)) for number in range(50))
    size = len(pickle.dumps(found))
    assert 50 * 100 * 32 < size < 50 * 100 * 32 + sum(map(len, names)) + 5000
    assert sys.getsizeof(found._digests) < 50 * 100 * 32 * 1.2
