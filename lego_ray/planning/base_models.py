"""The base model that the adapters of a merge name, and its revision: they must agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from lego_ray.errors import BaseModelMismatch
from lego_ray.formats.base_model import REVISION, revision_of, shared_revision
from lego_ray.formats.record import AdapterRecord


def listed_bases(names: Counter[str]) -> str:
    """How many adapters name which base model, in words, the most common first.

    Args:
        names: How often each is named; empty for none.
    """
    return "; ".join(f"{n} name {name or '(none)'}" for name, n in names.most_common())


def base_of(adapter: AdapterRecord) -> str:
    """The base model that an adapter names, or empty; with `@REVISION` if it names one.

    Args:
        adapter: The adapter.
    """
    revision = revision_of(adapter)
    return f"{adapter.base_model}@{revision}" if revision else adapter.base_model


def agreed_base_model(adapters: Iterable[AdapterRecord], override: str) -> str:
    """The base model of a merge.

    Args:
        adapters: The adapters to merge.
        override: The user's `--base-model`, or empty.

    Raises:
        BaseModelMismatch: If the adapters name different ones, or different revisions of one, and there
            is no override. One that names no revision goes with any (see `revision_warnings`).
    """
    if override:
        return override
    adapters = list(adapters)
    names = Counter(a.base_model for a in adapters)
    if len(names) > 1:
        listed = listed_bases(names)
        common, rare = names.most_common()[0][0], names.most_common()[-1][0]
        by_base: dict[str, list[str]] = defaultdict(list)
        for adapter in adapters:
            by_base[adapter.base_model].append(adapter.uri)
        only = f"Take those of one with --only-base '{common}'" if common else "Take those of one"
        raise BaseModelMismatch(
            by_base[rare][0],
            f"the adapters name different base models: {listed}",
            f"{only}, or, if they are one model under several names or some do not say, give its name "
            "with --base-model; in a recipe file, only_base: or base_model: of the merge.",
            {name: tuple(sorted(by_base[name])) for name in sorted(by_base)},
        )
    _check_revisions(adapters)
    return next(iter(names), "")


def _check_revisions(adapters: Sequence[AdapterRecord]) -> None:
    """Passes adapters of one base model that do not name different revisions of it."""
    by_base: dict[str, list[str]] = defaultdict(list)
    for adapter in adapters:
        by_base[base_of(adapter)].append(adapter.uri)
    named = Counter(base_of(a) for a in adapters if revision_of(a))
    if len(named) < 2:
        return
    common, rare = named.most_common()[0][0], named.most_common()[-1][0]
    counts = Counter(base_of(a) for a in adapters)
    raise BaseModelMismatch(
        by_base[rare][0],
        f"the adapters name different revisions of their base model: {listed_bases(counts)}",
        f"Take those of one with --only-base '{common}', or, if these revisions have the same weights, "
        "give its name with --base-model, and the merge names no revision; in a recipe file, only_base: "
        "or base_model: of the merge.",
        {name: tuple(sorted(by_base[name])) for name in sorted(by_base)},
    )


def revision_warnings(adapters: Sequence[AdapterRecord], base_model: str) -> Iterator[str]:
    """What to say of the base model's revision: that some adapters name none, or that the merge does.

    Args:
        adapters: The adapters of a merge.
        base_model: Its base model.
    """
    named = Counter(revision_of(a) for a in adapters if revision_of(a))
    revision = shared_revision(adapters, base_model).get(REVISION)
    silent = len(adapters) - named.total()
    if revision and silent:
        yield (
            f"{named.total()} of {len(adapters)} adapters name the revision {revision} of the base "
            f"model and {silent} name none: the merge names {revision}. Leave the others out if they "
            "were trained on another one"
        )
    elif named and not revision:
        listed = ", ".join(sorted(named))
        yield (
            f"the adapters name a revision of their base model ({listed}), and the merge names none, "
            "since --base-model was given"
        )
