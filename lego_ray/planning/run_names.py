"""How trainers name the checkpoints of one run: patterns over paths, read from the trainers' own code.

A checkpoint is a folder or a file. What stays when its number is taken out names the run.

| trainer | checkpoints | final |
| --- | --- | --- |
| HF Trainer and all on top of it, diffusers, SimpleTuner | `checkpoint-500/` | the folder above |
| diffusion-pipe, torchtune, accelerate | `epoch10/`, `step500/`, `epoch_1/`, `step_100/` | the highest |
| kohya, musubi-tuner | `NAME-000002`, `NAME-step00000500`, `NAME-000002-state/` | `NAME` |
| the same without a name | `epoch-000002`, `at-step00000500`, `epoch-state/` | `last` |
| ai-toolkit | `NAME_000000250`, `NAME_000000250_high_noise` | `NAME`, `NAME_high_noise` |
| OneTrainer | `save/TIME-save-STEP-EPOCH-STEP`, `backup/TIME-backup-STEP-EPOCH-STEP/` | elsewhere |
| mlx-lm | `0000100_adapters` beside `adapters` | `adapters` |
| TRL (DPO, GRPO, KTO, RLOO) from an adapter | `ref/`, a frozen copy of that adapter | the folder above |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

SAFETENSORS = ".safetensors"
FLAG = "--checkpoints"

# Order of what lies in one run; the highest is its adapter. Numbers count within a level.
REFERENCE, BEST, STATE, NUMBERED, LAST, FINAL, ROOT = range(7)
Order = tuple[int, str, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """What a path says of a place in a run.

    Attributes:
        run: What all places of the run share: a folder, and what comes after the number.
        final: Where the run's final adapter is, as the trainer writes it; empty if it may be anywhere.
        order: The highest is the last.
        sure: Whether the name alone says that it is a trainer's checkpoint.
        or_final: Where it is if it is not there; empty for nowhere.
    """

    run: tuple[str, str]
    final: str
    order: Order
    sure: bool
    or_final: str = ""


_CHECKPOINT = re.compile(
    r"(?:checkpoint|ckpt)[-_]?(?:(?:epoch|step|iter)[-_]?)?(\d+)|global_?step[-_]?(\d+)|iter_(\d{7})"
)
_WEAK_FOLDER = re.compile(r"(epoch|step|iter)[-_]?(\d+)")
_SAVED = ("", "checkpoint", "ckpt", "model", "adapter")
_WORDS: Mapping[str, int] = {
    name: order
    for words, order in ((("best",), BEST), (("last", "latest"), LAST), (("final",), FINAL))
    for word in words
    for saved in _SAVED
    for mark in "-_"
    for name in ((f"{word}{mark}{saved}", f"{saved}{mark}{word}") if saved else (word,))
}
# Folders that callbacks of PEFT's first years put the adapter in within a checkpoint, though not always
# within the run.
_OF_CALLBACKS = ("adapter_model", "adapter", "peft_model", "lora")
# The folder below an adapter in which TRL's trainers leave a frozen copy of the one that training began
# with. Adapters of other names below one are not copies of it.
_REFERENCE = "ref"
_TIME = r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)"
_BACKUP = re.compile(rf"{_TIME}-backup-(\d+)-\d+-\d+")
_SAVE = re.compile(rf"(.*?){_TIME}-save-(\d+)-\d+-\d+")
_STATE = re.compile(r"(.+?)(?:-(\d{6})|-step(\d{8}))?-state")
_KOHYA_EPOCH = re.compile(r"(.+)-(\d{6})")
_KOHYA_STEP = re.compile(r"(.+)-step(\d{8})")
_AI_TOOLKIT = re.compile(r"(.+)_(\d{9})((?:_(?:high|low)_noise)?)")
_MLX = re.compile(r"(\d{7})_adapters")
# OneTrainer's saves start with a prefix that the user chose, which tells runs in one workspace
# apart. Its backups have none.
ONETRAINER = "OneTrainer"
# What kohya's trainers call checkpoints, and the final file, of a run without a name.
_UNNAMED, _UNNAMED_FINAL = ("epoch", "at"), "last"


def step_of(place: str, below: int, *, is_mlx: bool = False) -> Step | None:
    """What the path of an adapter says of its place in a run.

    Args:
        place: Its folder, or its file where it is one.
        below: Characters of the path at its start that say nothing: the source's.
        is_mlx: Whether it is a numbered file in a folder of mlx-lm.

    Returns:
        None if the path is of no trainer's pattern.
    """
    if is_mlx:
        folder, _, file = place.rpartition("/")
        found = _MLX.fullmatch(file.removesuffix(SAFETENSORS))
        number = int(found[1]) if found else 0
        return Step((folder, "mlx"), folder, (NUMBERED, "", 0, number), True)
    above, _, last = place.rpartition("/")
    if last == _REFERENCE and len(above) >= below - 1:
        return Step((above, "reference"), above, (REFERENCE, "", 0, 0), True)
    start = below
    while start < len(place):
        end = place.find("/", start)
        end = len(place) if end < 0 else end
        is_file = end == len(place) and place.endswith(SAFETENSORS)
        part, prefix, rest = place[start:end], place[:start].rstrip("/"), place[end:].strip("/")
        of_part = _of_file(prefix, part) if is_file else _of_folder(prefix, part, rest)
        if of_part is not None:
            return of_part
        start = end + 1
    return None


def _of_folder(prefix: str, part: str, rest: str) -> Step | None:
    root = f"{prefix}/{rest}" if rest else prefix
    if found := _CHECKPOINT.fullmatch(part):
        number = int(next(group for group in found.groups() if group))
        above = prefix if rest in _OF_CALLBACKS else ""
        return Step((prefix, rest), root, (NUMBERED, "", 0, number), True, above)
    if found := _WEAK_FOLDER.fullmatch(part):
        # Of a run with both, the last epoch is saved when all steps are done.
        is_epoch = int(found[1] == "epoch")
        return Step((prefix, rest), root, (NUMBERED, "", is_epoch, int(found[2])), False)
    if part in _WORDS:
        return Step((prefix, rest), root, (_WORDS[part], "", 0, 0), False)
    if found := _BACKUP.fullmatch(part):
        return _of_onetrainer(prefix, ONETRAINER, found[1], int(found[2]))
    if found := _STATE.fullmatch(part):
        stem = _UNNAMED_FINAL if found[1] in _UNNAMED else found[1]
        number = int(found[2] or found[3] or 10**9)
        final = f"{prefix}/{stem}{SAFETENSORS}"
        return Step((prefix, final), final, (STATE, "", int(bool(found[2])), number), False)
    return None


def _of_file(folder: str, name: str) -> Step | None:
    stem = name.removesuffix(SAFETENSORS)
    if found := _SAVE.fullmatch(stem):
        return _of_onetrainer(folder, f"{ONETRAINER} {found[1]}", found[2], int(found[3]))
    patterns: tuple[tuple[re.Pattern[str], int], ...] = (
        (_KOHYA_STEP, 0),
        (_KOHYA_EPOCH, 1),
        (_AI_TOOLKIT, 0),
    )
    for pattern, is_epoch in patterns:
        if found := pattern.fullmatch(stem):
            of = _UNNAMED_FINAL if found[1] in _UNNAMED else found[1]
            tail = found[3] if pattern is _AI_TOOLKIT else ""
            final = f"{folder}/{of}{tail}{SAFETENSORS}"
            return Step((folder, final), final, (NUMBERED, "", is_epoch, int(found[2])), False)
    return None


def _of_onetrainer(folder: str, run: str, time: str, step: int) -> Step:
    above, _, last = folder.rpartition("/")
    workspace = above if last in ("save", "backup") else folder
    return Step((workspace, run), "", (NUMBERED, time, 0, step), True)


def is_numbered_mlx(name: str) -> bool:
    """Whether a file's name is that of a checkpoint of mlx-lm, which lies beside the final file."""
    stem = name.removesuffix(SAFETENSORS)
    return stem != name and _MLX.fullmatch(stem) is not None


def says_its_number(metadata: Mapping[str, str], name: str) -> bool:
    """Whether a file's header agrees that its name is a checkpoint's: the trainer wrote both.

    Args:
        metadata: Of its safetensors header: kohya's and musubi-tuner's have `ss_output_name`,
            `ss_epoch` and `ss_steps`, ai-toolkit's `training_info`.
        name: The file's.
    """
    stem = name.removesuffix(SAFETENSORS)
    for pattern, field in ((_KOHYA_STEP, "ss_steps"), (_KOHYA_EPOCH, "ss_epoch")):
        if (found := pattern.fullmatch(stem)) and metadata.get("ss_output_name"):
            named = metadata["ss_output_name"] == found[1] or found[1] in _UNNAMED
            return named and metadata.get(field) == str(int(found[2]))
    if found := _AI_TOOLKIT.fullmatch(stem):
        try:
            return bool(json.loads(metadata["training_info"])["step"] == int(found[2]))
        except (KeyError, TypeError, ValueError, RecursionError):
            return False
    return False


def run_name(metadata: Mapping[str, str]) -> str:
    """The name that a file's header gives its run; empty if it gives none.

    Args:
        metadata: Of its safetensors header: kohya's, musubi-tuner's and ai-toolkit's have
            `ss_output_name`.
    """
    return metadata.get("ss_output_name", "")


# Where torchtune keeps what it resumes by, beside the folders of its epochs.
STATE_FOLDER = "recipe_state"
# Files that trainers write to resume by. They are not adapters, and where they lie is a run.
_TRAINING = re.compile(
    r"trainer_state\.json|training_args\.(bin|json)|training_state.*\.json|train_state\.json|"
    r"(.*[-_])?(optimizer|optim|scheduler|lr_scheduler|scaler|grad_scaler|sampler|dataloader)"
    r"([-_.]?\d+)?\.(pt|pth|bin|safetensors)|rng_state.*\.pth|random_states_.*\.pkl|"
    r".*(optim|model)_states\.pt|distrib_optim\.pt|pytorch_model_fsdp.*\.bin|zero_to_fp32\.py|"
    r"resume_metadata\.json|recipe_state\.pt|events\.out\.tfevents.*|latest|global_step\d+"
)


def is_training_file(name: str) -> bool:
    """Whether a file or folder is one that trainers resume from or log to."""
    return _TRAINING.fullmatch(name) is not None
