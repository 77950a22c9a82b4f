"""Tables fit a terminal, are whole in a pipe, and name adapters below the folder they share."""

from __future__ import annotations

import os
import sys

import pytest

from lego_ray.cli.printing import below_one, percent, print_table, print_warning, styled

ROWS = [
    ("/a/very/long/way/to/the/adapter/french", 8, "acme/model-with-a-long-name-7b"),
    ("/b/german", 16, "short"),
]
COLUMNS = ("adapter", "rank", "base model")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    def lines(width: int | None, *, wrap: bool = False) -> list[str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: width is not None, raising=False)
        monkeypatch.setattr(
            "shutil.get_terminal_size", lambda fallback: os.terminal_size((width or 0, 24))
        )
        print_table(COLUMNS, ROWS, wrap=wrap)
        return capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()

    return lines


def test_in_a_pipe_every_cell_is_whole(printed: object) -> None:
    lines = printed(None)  # type: ignore[operator]
    assert lines == [
        "adapter                                 rank  base model",
        "/a/very/long/way/to/the/adapter/french     8  acme/model-with-a-long-name-7b",
        "/b/german                                 16  short",
    ]


@pytest.mark.parametrize("width", [60, 50, 45])
def test_on_a_terminal_texts_lose_their_beginning_to_fit(printed: object, width: int) -> None:
    lines = printed(width)  # type: ignore[operator]
    assert max(map(len, lines)) <= width
    assert "/french" in lines[1]
    assert "..." in lines[1]
    assert lines[1].endswith("name-7b")
    assert "16" in lines[2]


def test_a_wide_terminal_cuts_nothing(printed: object) -> None:
    assert printed(200) == printed(None)  # type: ignore[operator]


def test_a_tiny_terminal_still_shows_every_column(printed: object) -> None:
    lines = printed(10)  # type: ignore[operator]
    assert [len(line.split()) for line in lines[1:]] == [3, 3]


def test_prose_is_wrapped(printed: object) -> None:
    lines = printed(62, wrap=True)  # type: ignore[operator]
    assert max(map(len, lines)) <= 64
    assert "".join(line[44:].strip() for line in lines[1:-1]) == ROWS[0][2]


@pytest.mark.parametrize(
    ("uris", "root", "names"),
    [
        (["/zoo/a", "/zoo/b/c"], "/zoo", ["a", "b/c"]),
        (["/zoo/a"], "/zoo", ["a"]),
        (["s3://zoo/x/a", "s3://zoo/x/b"], "s3://zoo/x", ["a", "b"]),
        (["s3://one/a", "s3://two/a"], "", ["s3://one/a", "s3://two/a"]),
        (["/a", "/b"], "", ["/a", "/b"]),
        (["/zoo/a", "s3://zoo/a"], "", ["/zoo/a", "s3://zoo/a"]),
        (["hf://o/a@1", "hf://o/b@2"], "hf://o", ["a@1", "b@2"]),
        ([], "", []),
    ],
)
def test_places_are_named_below_the_folder_they_share(
    uris: list[str], root: str, names: list[str]
) -> None:
    assert below_one(uris) == (root, names)


def test_shares_are_percentages_aligned_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("kept",), [(percent(1.5),), (percent(0.02),), (percent(None),)])
    assert capsys.readouterr().out.splitlines() == ["   kept", "150.0 %", "  2.0 %", "      -"]


def test_color_is_for_terminals_and_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_warning("of \x1b[31mthis")
    assert capsys.readouterr().out == "warning   of \\x1b[31mthis\n"
    assert styled("x", fg="red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", fg="red") == "x"
