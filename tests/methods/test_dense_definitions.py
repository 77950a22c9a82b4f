"""Methods that are made in factor space, against their definitions on dense matrices, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lego_ray.errors import InvalidOption
from lego_ray.methods.names import METHODS
from lego_ray.methods.registry import method_of
from tests.methods.solving import Adapters, solve
from tests.methods.test_laws import shuffled
from tests.numerics.factors import D_IN, total, update, zoo

ROUNDING = 16 * 2.0**-23
Update = np.ndarray


def cut(w: Update, k: int) -> Update:
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    return np.asarray((u[:, :k] * s[:k]) @ vh[:k])


def orthonormal(columns: Update) -> Update:
    u, _, vh = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u @ vh)


def input_metric(updates: list[Update], k: int) -> Update:
    eye = np.eye(D_IN) / D_IN
    metrics = [w.T @ w / np.linalg.norm(w) ** 2 + eye for w in updates]
    whole = np.sum(metrics, axis=0)
    wanted = np.sum([w @ c for w, c in zip(updates, metrics, strict=True)], axis=0)
    wanted = wanted @ np.linalg.inv(whole)
    values, vectors = np.linalg.eigh(whole)
    root = (vectors * np.sqrt(values)) @ vectors.T
    return np.asarray(cut(wanted @ root, k) @ np.linalg.inv(root))


def swudi(updates: list[Update], k: int) -> Update:
    proxies = [w.T @ w / np.linalg.norm(w) ** 2 for w in updates]
    values, vectors = np.linalg.eigh(np.sum(proxies, axis=0))
    kept = round(values.sum() ** 2 / np.square(values).sum())
    q, sizes = vectors[:, -kept:], values[-kept:]
    wanted = np.sum([w @ c for w, c in zip(updates, proxies, strict=True)], axis=0)
    here = (wanted @ q / sizes) @ q.T
    return cut(here + np.sum(updates, axis=0) @ (np.eye(D_IN) - q @ q.T), k)


def iso_cts(updates: list[Update], k: int) -> Update:
    own = min(round((k - int(0.8 * k)) / len(updates)), k // len(updates))
    common = k - own * len(updates)
    u, s, vh = np.linalg.svd(np.sum(updates, axis=0), full_matrices=False)
    common = min(common, int((s > 1e-6 * s[0]).sum()))
    us, ss, vs = [u[:, :common]], [s[:common]], [vh[:common].T]
    for w in updates:
        x, t, yh = np.linalg.svd(w - us[0] @ us[0].T @ w, full_matrices=False)
        there = min(own, int((t > 1e-6 * np.linalg.norm(w, 2)).sum()))
        us, ss, vs = [*us, x[:, :there]], [*ss, t[:there]], [*vs, yh[:there].T]
    mean = np.concatenate(ss).mean()
    return np.asarray(
        mean * orthonormal(np.concatenate(us, 1)) @ orthonormal(np.concatenate(vs, 1)).T
    )


def dc_merge(updates: list[Update], k: int) -> Update:
    each = k // len(updates)  # the tests leave nothing over
    found = [np.linalg.svd(w, full_matrices=False) for w in updates]
    us = [u[:, :each] for u, _, _ in found]
    vs = [vh[:each].T for _, _, vh in found]
    smooth = [s[:each].mean() * u @ v.T for (_, s, _), u, v in zip(found, us, vs, strict=True)]
    left, right = orthonormal(np.concatenate(us, 1)), orthonormal(np.concatenate(vs, 1))
    cores = []
    for w in smooth:
        core = left.T @ w @ right
        least = np.sort(np.abs(core), axis=None)[-max(each, int(1e-3 * core.size))]
        cores.append(np.where(np.abs(core) >= least, core, 0))
    stacked = np.stack(cores)
    agree = (np.sign(stacked) == np.sign(stacked.sum(0))) & (stacked != 0)
    merged = (stacked * agree).sum(0) / np.maximum(agree.sum(0), 1)
    mask = np.kron(np.eye(len(updates)), np.ones((each, each)))
    return np.asarray(left @ (merged * mask) @ right.T)


DEFINITIONS: dict[str, Callable[[list[Update], int], Update]] = {
    "input_metric": input_metric,
    "swudi": swudi,
    "iso_cts": iso_cts,
    "dc_merge": dc_merge,
}
ZOOS = [([4, 2], 2), ([3, 3, 3], 3), ([3, 5, 4], 6), ([4, 7], 8), ([30, 12], 4), ([6], 6)]


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize(("ranks", "k"), ZOOS, ids=str)
def test_it_is_its_definition(name: str, ranks: list[int], k: int) -> None:
    adapters = zoo(ranks, [2.0, 0.5, -1.0][: len(ranks)])
    wanted = DEFINITIONS[name]([total([one]) for one in adapters], k)
    found = solve(adapters, name, k)
    got = update(found.rows, D_IN)
    assert np.linalg.norm(got - wanted) <= ROUNDING * np.linalg.norm(wanted)
    s = total(adapters)
    error = np.linalg.norm(got - s) / np.linalg.norm(s)
    assert found.comparison.relative_error() == pytest.approx(error, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_ranks_in_another_order_change_no_bit(name: str) -> None:
    adapters = zoo([4, 7, 2])
    wanted = solve(adapters, name, 6).rows
    for seed in range(3):
        assert torch.equal(solve(shuffled(adapters, seed, ranks=True), name, 6).rows, wanted)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_an_adapter_that_does_nothing_changes_nothing(name: str) -> None:
    if METHODS[name].ranks != "any":
        pytest.skip("k is shared out among all adapters, also idle ones")
    adapters = zoo([4, 3])
    idle = [(a, torch.zeros_like(b), s) for a, b, s in zoo([2])]
    alone = update(solve(adapters, name, 7).rows, D_IN)
    got = update(solve([*adapters, *idle], name, 7).rows, D_IN)
    assert np.linalg.norm(got - alone) <= ROUNDING * np.linalg.norm(alone)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_of_one_come_back_from_the_input_metric(copies: int) -> None:
    [one] = zoo([4])
    got = update(solve([one] * copies, "input_metric", 4).rows, D_IN)
    assert np.linalg.norm(got - total([one])) <= 1e-6 * np.linalg.norm(total([one]))


def test_swudi_gives_each_adapter_its_own_outputs_where_inputs_are_apart() -> None:
    """Adapters that read other inputs do not interfere: the sum, as WUDI has it."""
    adapters: Adapters = []
    for number, (a, b, s) in enumerate(zoo([2, 3])):
        a = a.clone()
        a[:, :6] *= number
        a[:, 6:] *= 1 - number
        adapters.append((a, b, s))
    got = update(solve(adapters, "swudi", 5).rows, D_IN)
    assert np.linalg.norm(got - total(adapters)) <= 1e-6 * np.linalg.norm(total(adapters))


def test_swudi_answers_the_inputs_of_each_adapter_as_it_does() -> None:
    """What WUDI minimises is less than at the sum, also where only some directions are solved for."""
    updates = [total([one]) for one in zoo([4, 3, 5])]

    def interference(w: Update) -> float:
        each = (np.linalg.norm((w - v) @ v.T) ** 2 / np.linalg.norm(v) ** 2 for v in updates)
        return float(sum(each))

    got = update(solve(zoo([4, 3, 5]), "swudi", 12).rows, D_IN)
    assert interference(got) < 0.6 * interference(np.sum(updates, axis=0))


def test_all_directions_of_iso_cts_are_equally_strong_and_each_adapter_has_its_own() -> None:
    adapters = zoo([5, 5], [8.0, 0.1])
    found = solve(adapters, "iso_cts", 5, common_share=0.6)
    s = np.linalg.svd(update(found.rows, D_IN), compute_uv=False)
    assert s[:5] == pytest.approx(s[0], rel=1e-5)
    # Three directions are the strong adapter's; of the other two the weak one has one for itself.
    assert found.lineage is not None
    weak = found.lineage.ranks[found.adapters[found.lineage.at] == 1]
    alone = set(weak.tolist()) - set(
        found.lineage.ranks[found.adapters[found.lineage.at] == 0].tolist()
    )
    assert len(alone) == 1


def test_iso_cts_is_iso_where_all_directions_are_common() -> None:
    adapters = zoo([5, 5], [8.0, 0.1])
    one = update(solve(adapters, "iso_cts", 4, common_share=1.0).rows, D_IN)
    other = update(solve(adapters, "iso", 4).rows, D_IN)
    assert np.linalg.norm(one - other) <= ROUNDING * np.linalg.norm(other)


def test_dc_merge_refuses_fewer_ranks_than_adapters() -> None:
    with pytest.raises(InvalidOption, match=r"3 is below the 4 adapters at x.*dc_merge"):
        method_of("dc_merge", {}).check_ranks({"x": [1, 2, 3, 4]}, 3)
