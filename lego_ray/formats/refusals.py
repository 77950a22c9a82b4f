"""What is refused, why, and what to do about it: tables to be read from top to bottom.

lego-ray merges updates of the form `dW = s B A`, rank by rank, onto the base model as it was
published. Whatever breaks one of these three is refused by name: an update that is not that product,
a rank axis that is not a plain one, a base model that training changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lego_ray.errors import UnsupportedAdapter


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason to refuse: why, after the field's or tensor's name, and what to do next.

    Attributes:
        why: Why.
        hint: What to do.
        is_beside: Whether it is a weight beside an update that could be merged, not a method's own.
    """

    why: str
    hint: str
    is_beside: bool = False


_TO_PLAIN = (
    "Copy the adapter as it was saved before training into a folder pissa_init of its directory "
    "(olora_init, corda_init, lora_ga_init), which is read with it. Or convert it on its base model "
    "with PEFT: save_pretrained(out, path_initial_model_for_weight_conversion=INITIAL), INITIAL being "
    "the adapter as saved before training, gives a plain LoRA of twice the rank."
)
_EXTRACT = (
    "Merge it into its base model (PEFT: merge_and_unload) and extract a plain LoRA from the "
    "difference, or train it again as plain LoRA."
)
_OF_LOFTQ = (
    "Merge it into the quantized base model that it was made with (PEFT: merge_and_unload), or train it "
    "again as plain LoRA, without this option."
)
_RETRAIN = "Train it again as plain LoRA, without this option."

_BASE = "Give its base model with --base (of merge, plan, build, refresh and update)"
_WITH_BASE = f"{_BASE}. Or: "
_WITH_BASE_OF_PEFT = f"{_BASE}, which reads it in PEFT's layout. Or: "

_CHANGES_BASE = "training started from a changed base model, so B A is not the whole update"

# init_lora_weights values that leave the base model as it was. Anything else is refused, known or not.
PLAIN_INITS: frozenset[object] = frozenset(
    {None, True, False, "gaussian", "eva", "orthogonal", "mica"}
)

# By prefix, lower case, as PEFT compares them.
CHANGING_INITS: Mapping[str, Refusal] = {
    "pissa": Refusal(_CHANGES_BASE, _WITH_BASE_OF_PEFT + _TO_PLAIN),
    "olora": Refusal(_CHANGES_BASE, _WITH_BASE_OF_PEFT + _TO_PLAIN),
    "corda": Refusal(_CHANGES_BASE, _TO_PLAIN),
    "lora_ga": Refusal(_CHANGES_BASE, _TO_PLAIN),
    "loftq": Refusal("it corrects one quantized base model, and fits no other", _OF_LOFTQ),
}

LORA_BIAS = Refusal(
    "the update has a bias beside B A",
    "--full-weights drop leaves the biases out; sum or average merges those of PEFT's adapters, and "
    "keep:NAME takes those of one. Else merge it into its base model (PEFT: merge_and_unload) and "
    "extract a plain LoRA from the difference.",
    is_beside=True,
)
TOKENS = Refusal(
    "it carries whole rows of the embedding, which are not low-rank",
    "--full-weights drop leaves them out, and --full-weights keep:NAME takes those of one adapter. Else "
    "train it again with the embedding among target_modules.",
    is_beside=True,
)
# Keys of the tensors in PEFT's files: a bias beside B of a site, and such rows.
_BIAS_KEY = r"\.lora_B(\.[^.]+)?\.bias$"
_TOKENS_KEY = r"\btrainable_tokens_|\.token_adapter\b"
# Fields of LoraConfig that --full-weights drop takes: the tensors that are left out, and a note on them.
DROPPABLE: Mapping[str, tuple[re.Pattern[str], str]] = {
    "lora_bias": (
        re.compile(_BIAS_KEY),
        "the biases of its updates (lora_bias) were dropped",
    ),
    "trainable_token_indices": (
        re.compile(_TOKENS_KEY),
        "its rows of the embedding (trainable_token_indices) were dropped",
    ),
}

SINGLORA = Refusal(
    "SingLoRA has one matrix A, and its update is A A^T, which is not read", _EXTRACT
)
DORA = Refusal("DoRA rescales the merged weight, so its update is not B A", _WITH_BASE + _EXTRACT)
# Fields of LoraConfig that are refused when set to anything but false, null, 0 or empty.
REFUSED_FIELDS: Mapping[str, Refusal] = {
    "use_dora": DORA,
    "lora_bias": LORA_BIAS,
    "alora_invocation_tokens": Refusal("aLoRA is active for part of the tokens only", _RETRAIN),
    "layer_replication": Refusal("its layers are not the base model's layers", _RETRAIN),
    "trainable_token_indices": TOKENS,
    "use_qalora": Refusal("QA-LoRA pools the input before A", _RETRAIN),
    "use_bdlora": Refusal("BD-LoRA's A or B is block-diagonal and stored packed", _RETRAIN),
    "arrow_config": Refusal(
        "Arrow routes between adapters at run time", "Pass the adapters it routes to instead."
    ),
    "kasa_config": Refusal("KaSA has a diagonal between A and B, and truncates the base", _RETRAIN),
    "monteclora_config": Refusal("MonteCLoRA samples its weights", _RETRAIN),
    "megatron_config": Refusal(
        "its layers are sharded by Megatron", "Export it to Hugging Face's layout first."
    ),
    "ramp_up_steps": SINGLORA,
    "swift_type": Refusal(
        "ms-swift saved it in its own form, whose keys and fields are not PEFT's",
        "Convert it with swift.tuners.SwiftModel.save_to_peft_format(FOLDER, OUTPUT), FOLDER being the "
        "one with the folder default in it, which works for plain LoRA; or leave it out with --exclude.",
    ),
    "enable_lora": Refusal(
        "it targets parts of fused layers, as PEFT did before 0.4", "Train it again with PEFT."
    ),
}

# Fields that leave the tensors a plain LoRA, whatever their value.
PLAIN_FIELDS = frozenset(
    {
        # read by formats.peft_config
        *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
        *("base_model_name_or_path", "task_type", "fan_in_fan_out", "modules_to_save"),
        # read by formats.peft_experts
        *("target_parameters", "peft_version", "lora_B_layout", "unsloth_fused_expert_lora"),
        # checked above
        "init_lora_weights",
        # where the tensors are says which sites there are
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        # of training alone, or of no effect unless a field above switches them on
        *("lora_dropout", "inference_mode", "eva_config", "corda_config", "lora_ga_config"),
        *("loftq_config", "velora_config", "qalora_group_size", "megatron_core"),
        *("runtime_config", "ensure_weight_tying"),
        # about the file
        *("auto_mapping", "revision"),
        # PEFT before 0.4, Unsloth, ms-swift
        *("merge_weights", "unsloth_fixed", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),
    }
)

_GLORA_REFUSED = Refusal(
    "GLoRA multiplies the base model's weight too, so its update needs the base model",
    "Merge it into its base model with the tool that trained it (LyCORIS: tools/merge.py; PEFT: "
    "merge_and_unload), and extract a plain LoRA from the difference (kohya: "
    "networks/extract_lora_from_models.py; LyCORIS: tools/extract_locon.py). Or train it again as plain "
    "LoRA.",
)

# PEFT methods that are not LoRA, where there is more to say than that.
REFUSED_TYPES: Mapping[str, Refusal] = {
    "GLORA": _GLORA_REFUSED,
    "OFT": Refusal("OFT multiplies the weight instead of adding to it", _EXTRACT),
    "BOFT": Refusal("BOFT multiplies the weight instead of adding to it", _EXTRACT),
    "IA3": Refusal("IA3 scales activations, it has no factors", _RETRAIN),
    "VERA": Refusal("VeRA shares frozen factors between layers", _EXTRACT),
    "XLORA": Refusal("X-LoRA mixes adapters at run time", "Pass the adapters it mixes instead."),
}

_KINDS_READ = (
    "which is read from single files of image models, and beside a configuration of peft_type {}"
)
_KINDS_HINT = "Copy the adapter_config.json of training beside it, or leave the adapter out."

# In a file of PEFT these may be modules that were saved whole.
_GLORA = "|".join(
    rf"^(?!base_model\.).+\.{part}\.weight$" for part in ("a1", "a2", "b1", "b2", "bm")
)

# Norms of Flux's control adapters, by diffusers' names and by those of the model's authors. In a file of
# PEFT these may be modules that were saved whole.
WHOLE_NORMS = r"^(?!base_model\.).+\.norm_\w+\.weight$|^(?!base_model\.).+\.\w+_norm\.scale$"
# Embeddings of new words that OneTrainer and others store in the file of a LoRA.
BUNDLED = r"\bbundle_emb\."

# Tensors that show the same without the configuration saying so: `re.search` in the key.
REFUSED_TENSORS: Mapping[str, Refusal] = {
    r"\.lora_magnitude_vector\b": DORA,
    _BIAS_KEY: LORA_BIAS,
    r"\.dora_scale$": DORA,
    # ai-toolkit's, which is not read with a base model either
    r"\.magnitude$": Refusal(DORA.why, _EXTRACT),
    r"\.diff$|\.diff_b$|\.diff_m$|\.w_norm$|\.b_norm$": Refusal(
        "it is the difference of a whole weight, a bias or a norm, and no part of a LoRA can hold that",
        "--full-weights drop leaves such differences out; in single files, sum or average merges them, "
        "and keep:NAME takes those of one adapter. Else merge it into its base model and extract a "
        "plain LoRA from the difference.",
        is_beside=True,
    ),
    rf"\.set_weight$|{WHOLE_NORMS}": Refusal(
        "it replaces a weight of the base model instead of adding to it",
        "--full-weights drop leaves such weights out. Else train it again as plain LoRA.",
        is_beside=True,
    ),
    r"\.reshape_weight$": Refusal(
        "it replaces a weight of the base model by one of another shape", _RETRAIN, is_beside=True
    ),
    BUNDLED: Refusal(
        "it is an embedding of a new word, and no part of a LoRA can hold that",
        "--full-weights drop leaves it out. Save the embedding as a file and load it beside the merge.",
        is_beside=True,
    ),
    r"\.lora_mid\b": Refusal(
        "it has a third factor between A and B, which only single files are read with", _EXTRACT
    ),
    r"\.lora_E\b|\.ranknum\b": Refusal(
        "AdaLoRA has a diagonal between A and B, which only PEFT's own files are read with",
        _EXTRACT,
    ),
    # Without an end such as .weight, which all other files of these names have.
    r"\.lora_down$|\.lora_up$": Refusal(
        "Nunchaku packed its factors for the GPU, in another order of numbers",
        "Take the LoRA that was converted to this one, in diffusers' or its trainer's layout.",
    ),
    r"\.lora_diag\b": REFUSED_FIELDS["kasa_config"],
    r"\.hada_[wt][12]": Refusal("it is of a LoHa, " + _KINDS_READ.format("LOHA"), _KINDS_HINT),
    r"\.lokr_[wt][12]": Refusal("it is of a LoKr, " + _KINDS_READ.format("LOKR"), _KINDS_HINT),
    _GLORA: _GLORA_REFUSED,
    r"\.on_input$": REFUSED_TYPES["IA3"],
    r"\.oft_|\.boft_": REFUSED_TYPES["OFT"],
    r"\.ia3_l\b": REFUSED_TYPES["IA3"],
    r"\.vera_lambda_": REFUSED_TYPES["VERA"],
    _TOKENS_KEY: TOKENS,
}
# What `re.search` finds in the tensors of methods that are refused, but not in weights beside an update.
OF_METHODS = re.compile(
    "|".join(f"(?:{key})" for key, refusal in REFUSED_TENSORS.items() if not refusal.is_beside)
)


def check_config(
    fields: Mapping[str, object], where: str, *, without: Collection[str] = ()
) -> None:
    """Passes a PEFT configuration that promises a plain LoRA.

    Args:
        fields: The configuration, parsed; it has a `peft_type`.
        where: The configuration file, for the error.
        without: Fields whose tensors are left out, so that they may be set.

    Raises:
        UnsupportedAdapter: Otherwise. It names the field, says why, and what to do.
    """
    kind = fields.get("peft_type")
    if kind != "LORA":
        known = REFUSED_TYPES.get(str(kind))
        why = f": {known.why}" if known else ", only LORA adapters are merged"
        hint = known.hint if known else "Convert it to LoRA, or leave it out."
        raise UnsupportedAdapter(where, f"peft_type is {kind}{why}", hint)
    _check_init(fields.get("init_lora_weights"), where)
    for name, value in fields.items():
        if name in REFUSED_FIELDS and value and name not in without:
            raise field_refused(name, where)
        if name not in REFUSED_FIELDS and name not in PLAIN_FIELDS and value:
            problem = (
                f"{name} is set, a field not known to this version, so what it does is unknown"
            )
            hint = "Upgrade lego-ray, or remove the field if it does not change what B A means."
            raise UnsupportedAdapter(where, problem, hint)


def field_refused(name: str, where: str) -> UnsupportedAdapter:
    """The error of a field that is set.

    Args:
        name: One of `REFUSED_FIELDS`.
        where: The configuration file.
    """
    refusal = REFUSED_FIELDS[name]
    return UnsupportedAdapter(where, f"{name} is set: {refusal.why}", refusal.hint)


def _check_init(value: object, where: str) -> None:
    name = value.lower() if isinstance(value, str) else value
    if isinstance(name, bool | str | None) and name in PLAIN_INITS:
        return
    unknown = Refusal("this version does not know whether it changes the base model", _TO_PLAIN)
    refusal = next((r for p, r in CHANGING_INITS.items() if str(name).startswith(p)), unknown)
    problem = f"init_lora_weights is {str(value)[:80]}: {refusal.why}"
    # Of pissa_niter_N the base model does not say what training began with: chance was in it.
    is_told = isinstance(name, str) and name in CHANGING_INITS
    hint = refusal.hint if is_told else refusal.hint.removeprefix(_WITH_BASE_OF_PEFT)
    raise UnsupportedAdapter(where, problem, hint)


def check_tensors(names: Iterable[str], where: str) -> None:
    """Passes tensor keys none of which belongs to a method that is refused.

    Args:
        names: Tensor keys.
        where: The adapter, for the error.

    Raises:
        UnsupportedAdapter: Otherwise. It names the first such tensor, says why, and what to do.
    """
    for name in names:
        for pattern, refusal in REFUSED_TENSORS.items():
            if re.search(pattern, name):
                raise UnsupportedAdapter(where, f"{name}: {refusal.why}", refusal.hint)
