"""How much each parameter of a search matters, as Optuna estimates it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from lego_ray.reporting.facts import short_names
from lego_ray.reporting.study import TrialFacts

# Trials with a score that an estimate needs: with fewer, it is about chance.
FEWEST = 8
# Powers of singular values in a class. The preset's own power has no number, so powers need classes.
_CLASS = 0.25
_OWN = "preset's"


def importances(trials: Sequence[TrialFacts]) -> Mapping[str, float] | None:
    """The share of each parameter that differs among trials, the largest first; they sum to 1.

    PED-ANOVA (arXiv 2304.10255): how far the parameter's values among the best trials are from those
    among all.

    Args:
        trials: Trials with values.

    Returns:
        None if Optuna is not installed, or there are too few trials, or they are all alike.
    """
    if len(trials) < FEWEST or len({t.value for t in trials}) < 2 or find_spec("optuna") is None:
        return None
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    columns = _columns(trials)
    if not columns:
        return None
    if len(columns) == 1:
        return dict.fromkeys(columns, 1.0)
    known: dict[str, Any] = {}
    for name, values in columns.items():
        if all(isinstance(value, float) for value in values):
            known[name] = FloatDistribution(min(values), max(values), log=min(values) > 0)
        else:
            known[name] = CategoricalDistribution(sorted(set(values)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an estimator is new
        study = optuna.create_study(direction="maximize")
        for number, trial in enumerate(trials):
            study.add_trial(
                optuna.trial.create_trial(
                    value=trial.value,
                    params={name: values[number] for name, values in columns.items()},
                    distributions=known,
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not all(map(math.isfinite, found.values())):
        return None
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def _columns(trials: Sequence[TrialFacts]) -> dict[str, list[Any]]:
    """The values of each parameter that is not the same in all trials."""
    uris = sorted({uri for trial in trials for uri in trial.parameters.get("weights") or {}})
    columns: dict[str, list[Any]] = {
        "preset": [str(t.parameters.get("preset")) for t in trials],
        "norm": [float(t.parameters.get("scale", 1.0)) for t in trials],
        "spectrum": [_spectrum(t.parameters.get("spectrum")) for t in trials],
        "rank": [str(t.parameters.get("rank")) for t in trials],
    }
    for uri, name in zip(uris, short_names(uris), strict=True):
        weights = [(t.parameters.get("weights") or {}).get(uri, 1.0) for t in trials]
        columns[f"weight of {name}"] = list(map(float, weights))
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _spectrum(power: Any) -> str:
    """The class of a power."""
    if power is None:
        return _OWN
    low = _CLASS * int(min(float(power), 1.0 - 1e-9) / _CLASS)
    return f"{low:g} to {low + _CLASS:g}"
