"""The section `tune` of a recipe file: how merges are scored, and which are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, WrapValidator

from lego_ray.errors import InvalidOption, RecipeError
from lego_ray.formats.forms import Form, read_as
from lego_ray.tuning.options import OBJECTIVES, WEIGHTED
from lego_ray.tuning.space import KEYS, space_of

_BOUNDS = "expected a number, or [low, high]"
_OBJECTIVE = f"expected {', '.join(OBJECTIVES)}, or the weight of each task"


def _bounds(value: object) -> str:
    ends = value if isinstance(value, list) and len(value) == 2 else [value]
    if isinstance(value, str):
        return value
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ValueError(_BOUNDS)
    return "..".join(f"{end!r}" for end in ends)


def _listed(kind: type, expected: str) -> WrapValidator:
    def read(value: object, _: object) -> str:
        each = value if isinstance(value, list) else [value]
        if not each or not all(type(one) is kind for one in each):
            raise ValueError(expected)
        return ",".join(map(str, each))

    return WrapValidator(read)


def _score(value: object, handler: Callable[[object], ScoreForm]) -> ScoreForm:
    """A mapping, or the command alone."""
    return handler({"command": value} if isinstance(value, str) else value)


def _objective(value: object) -> str | Mapping[str, float]:
    if isinstance(value, str) and value in OBJECTIVES:
        return value
    weights = value.items() if isinstance(value, dict) else ()
    fits = all(isinstance(n, str) and type(w) in (int, float) and w >= 0 for n, w in weights)
    if not weights or not fits:
        raise ValueError(_OBJECTIVE)
    return {name: float(weight) for name, weight in weights}


Text = Annotated[str, Field(min_length=1)]
Bounds = Annotated[str, WrapValidator(lambda value, _: _bounds(value))]
Presets = Annotated[str, _listed(str, "expected the name of a preset, or a list of names")]
Ranks = Annotated[str, _listed(int, "expected a whole number, or a list of them")]
Goal = Annotated[Any, WrapValidator(lambda value, _: _objective(value))]


class _Model(Form):
    model_config = ConfigDict(extra="forbid")


class SpaceForm(_Model):
    """Where to search; each value becomes the text that `--space` has for it."""

    preset: Presets | None = None
    scale: Bounds | None = None
    spectrum: Bounds | None = None
    weights: Bounds | None = None
    rank: Ranks | None = None


class ScoreForm(_Model):
    """What scores a merge: a command or `module:function`, or texts by a base model."""

    command: Text | None = None
    texts: Text | None = None
    base: Text | None = None


class TuneForm(_Model):
    """The whole section."""

    space: SpaceForm = SpaceForm()
    score: Annotated[ScoreForm, WrapValidator(_score)] | None = None
    trials: Annotated[int, Field(ge=1)] | None = None
    budget: Annotated[int, Field(ge=1)] | None = None
    objective: Goal = None
    seed: Annotated[int, Field(ge=0)] | None = None
    time_limit_per_trial: Annotated[float, Field(gt=0)] | None = None
    study: Text | None = None
    output: Text | None = None


class _FileForm(Form):
    """The file, of which only the section is looked at."""

    tune: TuneForm


@dataclass(frozen=True, slots=True)
class Section:
    """What the section says.

    Attributes:
        space: What is searched, by key, as `--space` has it.
        options: Keywords of `tune`: how merges are scored and compared.
        output: Where the best merge goes; empty if not said.
    """

    space: Mapping[str, str]
    options: Mapping[str, Any]
    output: str = ""


def read_section(said: Mapping[Any, Any], where: str, *, has_base: bool) -> Section:
    """Reads the section.

    Args:
        said: What YAML made of it.
        where: What to call the file in errors.
        has_base: Whether the file has a base model outside of the section.

    Raises:
        RecipeError: Naming every fault, each with its path.
    """
    form = read_as(_FileForm, {"tune": said}, lambda faults: RecipeError(where, faults)).tune
    score = form.score or ScoreForm()
    space = {key: text for key in KEYS if (text := getattr(form.space, key)) is not None}
    faults = [*_faults_of_space(space), *_faults_of_score(score, form, has_base=has_base)]
    if form.trials is not None and form.budget is not None:
        faults.append("tune.budget: it takes the place of trials; expected one of the two")
    if faults:
        raise RecipeError(where, tuple(faults))
    weights = form.objective if isinstance(form.objective, dict) else None
    options = {
        "score": score.command,
        "score_texts": score.texts,
        "base": score.base,
        "trials": form.trials or form.budget,
        "objective": WEIGHTED if weights else form.objective,
        "task_weights": weights,
        "seed": form.seed,
        "time_limit_per_trial": form.time_limit_per_trial,
        "study": form.study,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return Section(space, given, form.output or "")


def _faults_of_space(space: Mapping[str, str]) -> Sequence[str]:
    """What a search has against each key, so that no fault hides another."""
    faults = []
    for key, text in space.items():
        try:
            space_of([f"{key}={text}"], {} if key == "rank" else {"rank": 1})
        except InvalidOption as error:
            faults.append(f"tune.space.{key}: {error.problem}")
    return faults


def _faults_of_score(score: ScoreForm, form: TuneForm, *, has_base: bool) -> Sequence[str]:
    if form.score is None:
        return []
    faults = []
    if (score.command is None) == (score.texts is None):
        faults.append("tune.score: expected either a command, or texts with a base")
    if score.base is not None and score.texts is None:
        faults.append("tune.score.base: expected it with texts, which it scores")
    if score.base is not None and has_base:
        faults.append("tune.score.base: the file has base too; expected one of the two")
    return faults
