"""Every attack thought of or found: a value or a typed error, in seconds, with little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.fuzzing.targets import TARGETS, run
from tests.hostile.held import check_error, room_for

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
SECONDS = 60
ROOM = 2 << 30


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Loads what targets import as they go, for which there is no room later."""
    for target in TARGETS:
        run(target, b"x")
        for path in CORPUS.glob(f"{target}/valid*"):
            assert run(target, path.read_bytes()) is None


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_attack_gives_a_value_or_a_typed_error(path: Path) -> None:
    with room_for(ROOM):
        error = run(path.parent.name, path.read_bytes())
    check_error(error)
    assert not Path("/tmp/lego-ray-was-run").exists()  # what pickles of the corpus would write


def test_every_target_has_attacks_and_every_attack_a_target() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert len(FILES) > 250
