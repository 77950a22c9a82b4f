"""The comparison with other tools, small: the same adapters in, and each result read as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from jobs.benchmarks.peers import __main__ as peers
from jobs.benchmarks.peers import outputs, zoos
from jobs.benchmarks.peers.table import brief, table
from jobs.benchmarks.peers.trials import last_error, tried
from tests import ceph_gateway
from tests.docs.pages import text_of
from tests.zoo import REAL_ZOO, real_adapters, sum_of

RESULTS = Path("jobs/results")


def test_the_samples_are_read_and_written_as_they_are(tmp_path: Path) -> None:
    samples = zoos.samples(REAL_ZOO)
    wanted = outputs.total(each.updates({}) for each in samples)
    by_hand = sum_of(real_adapters())
    assert wanted.keys() == by_hand.keys()
    for module, update in wanted.items():
        torch.testing.assert_close(update, torch.from_numpy(by_hand[module]))
    modules = list(wanted)
    zoos.write_peft(tmp_path / "peft", samples, tmp_path, llama=False)
    zoos.write_peft(tmp_path / "llama", samples, tmp_path, llama=True)
    zoos.write_kohya(tmp_path / "kohya", samples)
    for spelling, end in (("peft", ""), ("llama", ""), ("kohya", ".safetensors")):
        places = [tmp_path / spelling / f"{each.name}{end}" for each in samples]
        got = outputs.total(outputs.updates_of(place, modules) for place in places)
        assert outputs.relative_error(got, wanted) < 1e-7


def test_the_update_of_a_dora_depends_on_the_base() -> None:
    base = zoos.base_weights()
    [lora, dora] = zoos.with_a_dora(zoos.samples(REAL_ZOO)[:1], base)
    module = "encoder.layer.0.output.dense"
    assert dora.magnitudes
    changed = base[module].double() + dora.updates(base)[module]
    torch.testing.assert_close(changed.norm(dim=1), dora.magnitudes[module].double())
    direction = base[module].double() + lora.updates(base)[module]
    cosine = torch.cosine_similarity(changed, direction, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_no_adapter_of_a_rank_is_nearer_than_the_least_error() -> None:
    wanted = {"m": torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))}
    nearest = {"m": torch.diag(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64))}
    least = outputs.least_error(wanted, 2)
    assert (
        least
        == pytest.approx(outputs.relative_error(nearest, wanted))
        == pytest.approx((1 / 14) ** 0.5)
    )
    assert outputs.relative_error({}, wanted) == 1


def test_a_command_that_fails_is_reported_with_its_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'raise ValueError(\"no file /a/b/c.txt\")'"
    trial = tried(command, tmp_path / "out", {})
    assert trial.as_json() == {"outcome": "failed", "error": "ValueError: no file .../c.txt"}
    assert last_error("one\ntwo\n") == "two"
    assert tried(None, tmp_path / "out", {}).outcome == "no method"


def test_a_command_that_writes_no_module_is_not_taken_for_a_merge(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    command = f"cp {REAL_ZOO}/spam-s14/adapter_model.safetensors {tmp_path}"
    trial = tried(command, tmp_path, {"encoder.layer.9.output.dense": torch.ones(2, 2)})
    assert trial.outcome == "nothing"


@pytest.mark.timeout(900)  # each merge is a process that imports torch
def test_lego_ray_merges_two_samples_as_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ceph_gateway, "missing", lambda: "left out here")
    for name in ("spam-s14", "rank4-wnverb-s16"):
        (tmp_path / "zoo" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "zoo" / name).symlink_to(REAL_ZOO / name)
    flags = f"--zoo {tmp_path}/zoo --rank 4 --many 0 --only lego-ray --out {tmp_path}/out"
    for asks in ("--ask sum --ask nearest", "--ask dora"):  # what is there already stays
        monkeypatch.setattr("sys.argv", ["peers", *flags.split(), *asks.split()])
        peers.main()
    figures = json.loads((tmp_path / "out" / "peers.json").read_text())
    found = figures["tools"]["lego-ray"]
    assert (figures["adapters"], figures["ranks"]) == (2, [4, 8])
    assert found["sum"]["relative_error"] < 1e-6
    assert found["nearest"]["relative_error"] == pytest.approx(figures["least_error"], rel=1e-6)
    assert found["nearest"]["peak_bytes"] > 0
    assert found["sum"]["more"]["sources_named"] == 2
    assert found["dora"]["more"] == {"says_dora": True, "left_out": True}
    assert not {"s3", "ties", "many"} & set(found)
    assert table(figures) == (tmp_path / "out" / "peers.md").read_text()
    assert table(figures) in capsys.readouterr().out


def test_the_pages_have_the_tables_that_the_benchmark_wrote() -> None:
    figures = json.loads((RESULTS / "peers.json").read_text())
    assert table(figures) == (RESULTS / "peers.md").read_text()
    assert table(figures) in text_of("docs/benchmarks.md")
    assert brief(figures) in text_of("README.md")
