"""The zoos that decide the default: made after the presets were fixed, with seeds used nowhere else.

On each base: adapters from separate starts and from one start, trained well, and adapters trained at
a rate that is too high. The smaller zoos are parts of these, so each adapter is trained once.
"""

from __future__ import annotations

from jobs.fixtures.train import FixtureAdapter
from jobs.quality.language import KINDS
from jobs.quality.zoos import NATURAL, Zoo

# At the rate of `zoos`, adapters of MiniLM still gain when doubled; at this one they gain less.
WELL, TOO_HIGH = 2e-3, 8e-3
OVER_TRAINED = "over-trained"  # the kind of the zoos that the rule leaves out


def _adapters(
    base: str, tasks: tuple[str, ...], seeds: tuple[int, ...], learning_rate: float
) -> tuple[FixtureAdapter, ...]:
    return tuple(
        FixtureAdapter(
            f"{base}-{task}-s{seed}-lr{learning_rate:g}", task, seed, learning_rate=learning_rate
        )
        for task, seed in zip(tasks, seeds, strict=True)
    )


def _parts(kind: str, adapters: tuple[FixtureAdapter, ...], *sizes: int) -> tuple[Zoo, ...]:
    """The adapters in as many zoos of each size as they fill, zoos of one size sharing none."""
    return tuple(
        Zoo(f"{kind}-T{size}-{i + 1}", kind, adapters[i * size : (i + 1) * size])
        for size in sizes
        for i in range(len(adapters) // size)
    )


_FIRST = _adapters("minilm", (*NATURAL, "editorial", "wnverb"), tuple(range(1101, 1110)), WELL)
_SHARED = _adapters("minilm", NATURAL, (1150,) * len(NATURAL), WELL)
_TOO_HIGH = _adapters("minilm", NATURAL[:4], tuple(range(1171, 1175)), TOO_HIGH)
# In the order in which they are made, those that say most first.
MINILM = (
    *_parts("separate", _FIRST[:4], 2, 4),
    *_parts("separate", _FIRST[: len(NATURAL)], 7),
    *_parts("separate", _FIRST[:6], 2)[2:],
    *_parts(OVER_TRAINED, _TOO_HIGH, 4),
    *_parts("shared", _SHARED, 2, 4, 7),
    *_parts("separate", _FIRST, 9),
)

_READ = _adapters("smollm2", KINDS, tuple(range(1301, 1305)), WELL)
_READ_SHARED = _adapters("smollm2", KINDS, (1350,) * len(KINDS), WELL)
_READ_TOO_HIGH = _adapters("smollm2", KINDS, tuple(range(1371, 1375)), TOO_HIGH)
SMOLLM2 = (
    *_parts("separate", _READ, 2, 4),
    *_parts(OVER_TRAINED, _READ_TOO_HIGH, 4),
    *_parts("shared", _READ_SHARED, 2, 4),
)
