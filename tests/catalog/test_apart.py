"""A function that runs in a separate process: the same answer, and an end to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.benchmarks import processes
from lego_ray.catalog.apart import Limits, run_apart
from lego_ray.catalog.choosing import choose, decide
from lego_ray.catalog.merges import append_merge
from lego_ray.catalog.query import answer, sql
from lego_ray.catalog.tables import Catalog
from lego_ray.errors import CatalogNotFound, QueryError, RunFailed
from tests.catalog.sample import details, merge
from tests.catalog.test_choosing import ZOO

ROOT = Path(__file__).parents[2]
LIMITS = Limits("x", seconds=120, memory=4 << 30)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(str(tmp_path / "catalog"))
    append_merge(catalog, merge(), *details())
    return catalog


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM merges",
        "SELECT site, list(cluster) AS clusters FROM msus GROUP BY site ORDER BY site",
        "SELECT * FROM msus WHERE false",
        "SELECT * FROM range(1000000)",
    ],
)
def test_a_separate_process_gives_the_answer_that_this_one_gives(
    catalog: Catalog, query: str
) -> None:
    assert sql(catalog, query).equals(answer(catalog, query), check_metadata=True)


def test_a_condition_is_decided_alike_in_either_process() -> None:
    assert choose(ZOO, "rank > 4") == decide(ZOO, "rank > 4")


def test_errors_come_back_as_they_were_raised(catalog: Catalog, tmp_path: Path) -> None:
    for query in ("SELECT nmae FROM merges", "COPY merges TO 'x'", "SELECT '\ud800'"):
        with pytest.raises(QueryError) as apart:
            sql(catalog, query)
        with pytest.raises(QueryError) as here:
            answer(catalog, query)
        assert str(apart.value) == str(here.value)
    with pytest.raises(CatalogNotFound):
        sql(Catalog(str(tmp_path / "empty")), "SELECT 1")


def test_credentials_do_not_show_in_the_list_of_processes(tmp_path: Path) -> None:
    read = run_apart(LIMITS, _own_words, secret="hunter2")
    assert b"lego_ray.catalog.answering" in read
    assert b"hunter2" not in read


def test_what_a_function_prints_is_not_taken_for_its_answer() -> None:
    assert run_apart(LIMITS, _printing) == "answer"


def test_the_working_directory_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('imported from here')\n")
    monkeypatch.chdir(tmp_path)
    assert run_apart(LIMITS, _printing) == "answer"


def test_the_next_call_finds_what_the_last_imported_and_the_surroundings_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parent, _, _ = run_apart(LIMITS, _surroundings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEGO_RAY_X", "1")
    pid, parent_then, directory, value = run_apart(LIMITS, _surroundings)
    assert (parent_then, directory, value) == (parent, str(tmp_path), "1")
    monkeypatch.delenv("LEGO_RAY_X")
    other_pid, _, _, value = run_apart(LIMITS, _surroundings)
    assert (other_pid != pid, value) == (True, None)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_apart(LIMITS, _surroundings)[1] != parent


def test_where_the_one_that_waits_has_ended_another_is_started() -> None:
    parent = run_apart(LIMITS, _surroundings)[1]
    os.kill(parent, signal.SIGKILL)
    assert run_apart(LIMITS, _surroundings)[1] != parent


def test_one_that_waits_ends_with_the_process_that_asked() -> None:
    words = "from tests.catalog import test_apart as t; print(t.run_apart(t.LIMITS, t._surroundings)[1])"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, check=True, timeout=100
    )
    while _state(int(done.stdout)) != "Z":
        time.sleep(0.05)


def test_a_call_past_its_time_ends_both_and_the_next_is_answered() -> None:
    with pytest.raises(QueryError, match="longer than"):
        run_apart(Limits("x", seconds=0.5, memory=4 << 30), time.sleep, 600)
    assert run_apart(LIMITS, _printing) == "answer"


@pytest.mark.parametrize("how", ["exit", "abort"])
def test_a_process_that_dies_is_an_error_not_a_hang(how: str) -> None:
    kind = RunFailed if how == "exit" else QueryError
    with pytest.raises(kind):
        run_apart(LIMITS, _dying, how)


def test_an_unexpected_error_is_named() -> None:
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        run_apart(LIMITS, divmod, 1, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_query_ends_with_the_command_that_asked(catalog: Catalog, how: signal.Signals) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) a, range(1000) b"
    words = [sys.executable, "-m", "lego_ray", "catalog", "sql", endless, "--time-limit", "1h"]
    with subprocess.Popen(
        [*words, "--catalog", catalog.uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as asked:
        try:
            child = _first_child(asked)
            asked.send_signal(how)
            out, err = asked.communicate(timeout=60)
        finally:
            asked.kill()
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        time.sleep(0.05)
    assert out == b""
    if how == signal.SIGINT:
        assert (asked.returncode, err.split()) == (130, [b"interrupted"])
    else:
        assert asked.returncode == -how


def _first_child(process: subprocess.Popen[bytes]) -> int:
    """The pid of the process that answers, once it is at it."""
    while process.poll() is None:
        for pid in processes.tree(process.pid):
            if _parent(pid) not in (0, os.getpid(), process.pid) and _cpu_seconds(pid) > 0.2:
                return pid
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return "Z"


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_words(secret: str) -> bytes:
    return Path("/proc/self/cmdline").read_bytes()


def _surroundings() -> tuple[int, int, str, str | None]:
    return os.getpid(), os.getppid(), os.getcwd(), os.environ.get("LEGO_RAY_X")  # noqa: PTH109


def _printing() -> str:
    print("printed")
    os.write(1, b"written")
    return "answer"


def _dying(how: str) -> pa.Table:
    if how == "exit":
        os._exit(3)
    os.abort()
