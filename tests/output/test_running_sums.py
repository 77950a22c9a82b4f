"""What describes running sums is of its form, or is refused with the field named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from lego_ray.errors import MalformedAdapter
from lego_ray.output.running_sums import decode_state

SOURCE = {"adapter_id": "a", "uri": "/a", "weight": 1, "of another release": [1]}
ABOUT: dict[str, Any] = {
    **{"version": 1, "fit": "a", "carried": {}, "fitted": [SOURCE], "present": [True]},
    **{"added": [], "sites": []},
}


def file_of(about: object) -> bytes:
    data: bytes = save({"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    return data


def test_sources_are_kept_as_they_were_written() -> None:
    found = decode_state(file_of(ABOUT), "/m")
    assert found.sources() == [SOURCE]
    assert (
        type(found.sources()[0]["weight"]) is int
    )  # a float would be other bytes in the next version


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version: 2; expected 1"),
        ({"fit": 1}, "fit: 1; expected text"),
        ({"fitted": [{"uri": "/a"}]}, "fitted[0].adapter_id: missing"),
        ({"present": [1]}, "present[0]: 1; expected true or false"),
        ({"sites": [{"plan": {}}]}, "sites[0].inertia: missing"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedAdapter) as caught:
        decode_state(file_of({**ABOUT, **change}), "/m")
    assert caught.value.problem == f"these are not running sums of version 1: {said}"
    assert caught.value.where == "/m"
