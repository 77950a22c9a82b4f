"""A task's result survives its file bit for bit, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

import lego_ray
from lego_ray.errors import MalformedAdapter, NonFiniteWeights
from lego_ray.output.checkpoints.format import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
)
from lego_ray.output.checkpoints.run_folder import UnreadableCheckpoint
from lego_ray.planning.plan import Plan
from lego_ray.planning.ranks import Spectrum
from lego_ray.planning.task_plans import SitePlan
from lego_ray.tasks.cut import tasks_of
from lego_ray.tasks.passes import first_pass
from lego_ray.tasks.solve import solve_task
from lego_ray.tasks.values import SiteResult, TaskResult
from tests.zoo import Site, write_zoo


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    zoo = write_zoo(tmp_path_factory.mktemp("checkpoint") / "zoo", 3)
    return lego_ray.plan(zoo, rank=4, n_init=2, updatable=True)


@pytest.fixture(scope="module")
def result(plan: Plan) -> TaskResult:
    return solve_task(next(tasks_of(plan)))


def sites_of(plan: Plan) -> dict[str, SitePlan]:
    return {site.site: site for task in plan.tasks for site in task.sites}


def there_and_back(plan: Plan, result: TaskResult) -> Checkpoint:
    covers = tuple(sites_of(plan))
    data = encode_checkpoint(Checkpoint(plan.digest, 1, plan.n_sites, covers, result))
    finding = first_pass(plan.recipe).finding
    found = decode_checkpoint(data, plan.digest, sites_of(plan), finding)
    assert (found.plan, found.number, found.of_sites) == (plan.digest, 1, plan.n_sites)
    assert found.covers == covers
    return found


def assert_same_site(got: SiteResult, wanted: SiteResult) -> None:
    for field in fields(SiteResult):
        left, right = getattr(got, field.name), getattr(wanted, field.name)
        if isinstance(right, np.ndarray):
            assert (left.dtype, left.shape) == (right.dtype, right.shape)
            assert left.tobytes() == right.tobytes()
        elif isinstance(right, float) and math.isnan(right):
            assert math.isnan(left)
        else:
            assert left == right
            assert type(left) is type(right)


def test_every_value_comes_back_as_it_was(plan: Plan, result: TaskResult) -> None:
    found = there_and_back(plan, result).result
    assert len(found.sites) == len(result.sites) == 4
    for got, wanted in zip(found.sites, result.sites, strict=True):
        assert_same_site(got, wanted)
        assert got.plan is sites_of(plan)[got.plan.site]
    plain = [f.name for f in fields(TaskResult) if f.name != "sites"]
    assert {n: getattr(found, n) for n in plain} == {n: getattr(result, n) for n in plain}


def test_so_does_what_was_measured(tmp_path: Path) -> None:
    plan = lego_ray.plan(write_zoo(tmp_path / "zoo", 3), rank="auto")
    result = solve_task(next(tasks_of(plan)))
    found = there_and_back(plan, result).result
    assert [s.site for s in found.found] == list(sites_of(plan))
    assert found.n_sites == plan.n_sites
    for got, wanted in zip(found.found, result.found, strict=True):
        assert (got.site, got.width) == (wanted.site, wanted.width)
        assert got.energies.tobytes() == wanted.energies.tobytes()


@dataclass(frozen=True)
class Norms:
    """What some other pass may find."""

    site: str
    norms: NDArray[np.float32]
    largest: float
    words: str | None = None


def test_so_does_what_any_pass_found_and_only_for_that_pass(plan: Plan) -> None:
    sites = list(sites_of(plan))
    values = np.arange(3, dtype=np.float32)
    found = tuple(Norms(site, values[at:], math.pi) for at, site in enumerate(sites[:2]))
    result = TaskResult(0, (), {}, {}, {}, 0, 0, 0.0, found=found, n_found=2)
    data = encode_checkpoint(Checkpoint(plan.digest, 1, 4, tuple(sites), result))
    got = decode_checkpoint(data, plan.digest, sites_of(plan), Norms).result
    assert got.n_sites == 2
    for one, two in zip(got.found, found, strict=True):
        assert (one.site, one.largest, one.words) == (two.site, two.largest, None)
        assert (one.norms.dtype, one.norms.tobytes()) == (two.norms.dtype, two.norms.tobytes())
    with pytest.raises(UnreadableCheckpoint, match="another pass"):
        decode_checkpoint(data, plan.digest, sites_of(plan))
    with pytest.raises(UnreadableCheckpoint):
        decode_checkpoint(data, plan.digest, sites_of(plan), Spectrum)
    astray = replace(result, found=(replace(found[0], site="elsewhere"),))
    data = encode_checkpoint(Checkpoint(plan.digest, 1, 4, tuple(sites), astray))
    with pytest.raises(UnreadableCheckpoint, match="sites the plan has not"):
        decode_checkpoint(data, plan.digest, sites_of(plan), Norms)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 5e-324, -0.0, 0.1 + 0.2])
def test_any_number_comes_back(value: float, plan: Plan, result: TaskResult) -> None:
    odd = replace(result.sites[0], inertia=value, relative_error=value)
    [got] = there_and_back(plan, replace(result, sites=(odd,))).result.sites
    assert_same_site(got, odd)
    assert got.inertia is not None
    assert math.copysign(1, got.inertia) == math.copysign(1, value)


def test_empty_and_transposed_arrays_come_back(plan: Plan, result: TaskResult) -> None:
    first = result.sites[0]
    assert first.clusters is not None
    odd = replace(first, clusters=first.clusters[:0], b=np.asfortranarray(first.b))
    [got] = there_and_back(plan, replace(result, sites=(odd,))).result.sites
    assert_same_site(got, odd)


def test_bad_adapters_keep_their_error_and_passed_weights_their_bytes(plan: Plan) -> None:
    result = TaskResult(
        index=0,
        sites=(),
        quarantined={2: NonFiniteWeights("/zoo/ä", "it holds NaN", "Leave it out."), 0: BAD},
        tensor_hashes={2: (("x", "ab" * 32), ("y", "cd" * 32))},
        full_weights={"score.weight": bytes(range(256)), "score.bias": b""},
        bytes_read=7,
        requests=2,
        seconds=0.1,
        worker="w",
    )
    found = there_and_back(plan, result).result
    assert found.full_weights == result.full_weights
    assert found.tensor_hashes == result.tensor_hashes
    assert (found.bytes_read, found.requests, found.seconds, found.worker) == (7, 2, 0.1, "w")
    assert {n: (type(e), e.where, e.problem, e.hint) for n, e in found.quarantined.items()} == {
        n: (type(e), e.where, e.problem, e.hint) for n, e in result.quarantined.items()
    }


BAD = MalformedAdapter("/zoo/b", "it is cut short")


def test_the_file_is_in_the_safetensors_format(plan: Plan, result: TaskResult) -> None:
    data = encode_checkpoint(Checkpoint(plan.digest, 1, 4, tuple(sites_of(plan)), result))
    assert load(data)["0.a"].shape == (4, 12)


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_a_changed_byte_anywhere_is_seen(place: int, plan: Plan, result: TaskResult) -> None:
    data = bytearray(
        encode_checkpoint(Checkpoint(plan.digest, 1, 4, tuple(sites_of(plan)), result))
    )
    data[place * len(data) // 100] ^= 4
    with pytest.raises(UnreadableCheckpoint):
        decode_checkpoint(bytes(data), plan.digest, sites_of(plan))


def test_another_plan_or_sites_it_has_not_are_seen(plan: Plan, result: TaskResult) -> None:
    data = encode_checkpoint(Checkpoint(plan.digest, 1, 4, tuple(sites_of(plan)), result))
    with pytest.raises(UnreadableCheckpoint, match="another plan"):
        decode_checkpoint(data, "0" * 64, sites_of(plan))
    with pytest.raises(UnreadableCheckpoint):
        decode_checkpoint(data, plan.digest, {})


def test_an_error_that_is_none_of_ours_is_not_made(plan: Plan, result: TaskResult) -> None:
    class Foreign(MalformedAdapter):
        pass

    Foreign.__name__ = "annotations"
    bad = replace(result, sites=(), quarantined={0: Foreign("a", "b")})
    data = encode_checkpoint(Checkpoint(plan.digest, 1, 4, (), bad))
    with pytest.raises(UnreadableCheckpoint, match="not an error of this release"):
        decode_checkpoint(data, plan.digest, sites_of(plan))


def test_the_tasks_left_are_those_of_sites_not_done(tmp_path: Path) -> None:
    sites = tuple(Site(f"layers.{i}.q_proj", (12,), 10) for i in range(4))
    zoo = write_zoo(tmp_path / "zoo", 2, sites=sites)
    whole = lego_ray.plan(zoo, rank=2)
    plan = lego_ray.plan(zoo, rank=2, memory_budget=whole.tasks[0].sites[0].peak_bytes)
    names = [site.name for site in sites]
    left = list(tasks_of(plan, {names[0], names[2]}))
    assert [task.index for task in left] == [1, 3]
    assert [[s.site for s in task.plan.sites] for task in left] == [[names[1]], [names[3]]]
    [part] = tasks_of(whole, {names[0], names[2]})
    assert [s.site for s in part.plan.sites] == [names[1], names[3]]
    assert {f.site for source in part.sources for f in source.factors} == {names[1], names[3]}
    assert list(tasks_of(plan, set(names))) == []


def test_the_marker_says_what_is_being_made(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    seen = []

    def look(plan: Plan, result: TaskResult | None) -> None:
        seen.append(json.loads((tmp_path / "m" / ".lego-ray" / "run.json").read_text()))

    record = lego_ray.merge(
        zoo, rank=4, output=tmp_path / "m", runner="inline", n_init=2, progress=look
    )
    for marker in seen:
        assert marker["plan"] == record["merge_id"]
        assert (marker["name"], marker["method"], marker["rank"]) == ("m", "lego", 4)
        assert (marker["adapters"], marker["sites"], marker["catalog"]) == (2, 4, None)
