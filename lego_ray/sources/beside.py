"""Files beside adapters: what was trained with one and is not merged, and LoRAs in files not read.

By name alone, except for files that may be a LoRA: their first bytes say whether they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from lego_ray.errors import UnsupportedAdapter
from lego_ray.formats.layouts import layout_named
from lego_ray.planning.run_names import is_numbered_mlx, is_training_file

# Types of files that tools write LoRAs in and that are not read, with what to do.
_RESAVE = (
    "Save it as safetensors from a program you trust it in: safetensors.torch.save_file(torch.load("
    "FILE, weights_only=True), NAME.safetensors)."
)
HINTS: Mapping[str, str] = {
    ".pt": _RESAVE,
    ".pth": _RESAVE,
    ".ckpt": _RESAVE,
    ".bin": _RESAVE,
    ".gguf": "Merge the adapter that it was converted from, and convert the merge.",
}
# What NeMo and Megatron-Bridge write, of which the first file of several stands for all.
_NEMO = re.compile(r".+\.nemo|__0_0\.distcp", re.IGNORECASE)
_OF_TORCHTUNE = re.compile(rb"\.lora_[ab]\.weight")
# Names of tensors and metadata that only LoRAs have, as a pickle or a GGUF header spells them.
_LORA = re.compile(
    rb"\.lora_[ABab]\b|[._]lora[._](up|down)\b|\.lora_(up|down|mid|embedding_[AB])\b|"
    rb"\.(lokr_w|hada_w)[12]|\.dora_scale|adapter\.lora\.|\.lora_[ab]\x00|lora_(unet|te\d?)_"
)

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
# All that is said of files beside an adapter is said of files with these endings.
WEIGHTS_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
_WEIGHTS = re.compile(rf".+({'|'.join(map(re.escape, WEIGHTS_ENDINGS))})")
# A model's own weights, such as a merged one that was saved beside its adapter.
_MODEL = re.compile(r"(model|pytorch_model|diffusion_pytorch_model|consolidated)[-.].*")

_WITH = re.compile(r"\.(safetensors|bin|pt|pth)$")
# What trainers save apart from the adapter that was trained with it, by the name without its ending.
_TRAINED_WITH: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"non_lora_(trainables|state_dict|weights)"), "weights that are not LoRA's"),
    (re.compile(r"(value_head|v_head|score_head|reward_head)"), "a value head"),
    (re.compile(r"(mm_|multi_modal_|multimodal_)?projector"), "a projector"),
    (re.compile(r"(vision_)?resampler"), "a resampler"),
    (re.compile(r"(modules_to_save|trainable_weights)(\..+)?"), "whole modules"),
    (re.compile(r"(head|classifier|classification_head|score|cls_head|lm_head)"), "a head"),
    (
        re.compile(
            r"(learned_embeds?|new_embeddings|added_embeddings|embed_tokens|embeddings)(.*)"
        ),
        "embeddings",
    ),
)
_PIVOTAL = re.compile(r".+_emb\.safetensors")  # diffusers' advanced scripts: FOLDER_emb.safetensors


# Pickled files that are read: PEFT's and diffusers' before safetensors.
READ_PICKLES = ("adapter_model.bin", "pytorch_lora_weights.bin")


def is_foreign(name: str) -> bool:
    """Whether a file may be a LoRA of a type that is not read, so that it is worth a look."""
    if name in READ_PICKLES:
        return False
    if _NEMO.fullmatch(name):
        return True
    _, dot, ending = name.rpartition(".")
    return f"{dot}{ending}".lower() in HINTS and not (is_training_file(name) or _trained_with(name))


def hint_for(name: str) -> str:
    """What to do about a file that `is_foreign`.

    Args:
        name: Its name.
    """
    if _NEMO.fullmatch(name):
        return layout_named("megatron").hint
    return HINTS[f".{name.rpartition('.')[2].lower()}"]


def check_foreign(name: str, start: bytes, where: str) -> None:
    """Passes a file that is not a LoRA.

    Args:
        name: Its name.
        start: Its first bytes; those of its directory of tensors, as far as they go.
        where: Its URI, for the error.

    Raises:
        UnsupportedAdapter: If it is one.
    """
    if _NEMO.fullmatch(name):
        problem = "it is a checkpoint of NeMo or Megatron-Bridge, which is not read"
        raise UnsupportedAdapter(where, problem, hint_for(name))
    if _LORA.search(start):
        ending = f".{name.rpartition('.')[2].lower()}"
        problem = f"it is a LoRA in a {ending} file, which is not read"
        hint = layout_named("torchtune").hint if _OF_TORCHTUNE.search(start) else hint_for(name)
        raise UnsupportedAdapter(where, problem, hint)


def sharded(stem: str, count: str, where: str) -> UnsupportedAdapter:
    """The error of an adapter whose weights are in several files."""
    return UnsupportedAdapter(
        where,
        f"its weights are in {int(count)} files, {stem}-00001-of-{count}.safetensors and on, which "
        "are not read, and which PEFT does not load either",
        "Join them: load each with safetensors.torch.load_file and save all tensors with save_file as "
        f"{stem}.safetensors.",
    )


def notes_on(names: Collection[str], own: str, *, is_alone: bool) -> Iterator[str]:
    """What to say of the other files in an adapter's folder, one sentence each.

    Args:
        names: Of all files in the folder.
        own: Name of its weights file.
        is_alone: Whether the folder is the adapter's alone, so that all weights in it are its own.
    """
    for name in sorted(names):
        if name == own or not _WEIGHTS.fullmatch(name) or is_training_file(name):
            continue
        what = _trained_with(name)
        if what is None and is_alone and _PIVOTAL.fullmatch(name):
            what = "embeddings"
        if what is not None:
            yield f"beside it lies {name} ({what}), trained with it and not merged"


def unread(names: Collection[str], own: str) -> Iterator[str]:
    """What to say of weights in a folder with one configuration that are of no use here.

    Args:
        names: Of all files in the folder.
        own: Name of the weights file that is read.
    """
    known = {own, "adapter_model.safetensors", "adapter_model.bin"}
    for name in sorted(names):
        if name in known or not _WEIGHTS.fullmatch(name) or _MODEL.fullmatch(name):
            continue
        if is_training_file(name) or is_numbered_mlx(name) or _trained_with(name):
            continue
        yield f"beside it lies {name}, which is not read: the adapter is {own}"


def _trained_with(name: str) -> str | None:
    stem = _WITH.sub("", name)
    if stem == name:
        return None
    return next((what for pattern, what in _TRAINED_WITH if pattern.fullmatch(stem)), None)
