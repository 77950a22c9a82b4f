"""Writes a merged adapter into its base model."""

from __future__ import annotations

from lego_ray.arguments import checked
from lego_ray.baking.bake import run_bake
from lego_ray.baking.record import BakeRecord
from lego_ray.errors import InvalidOption
from lego_ray.planning.arguments import Uri
from lego_ray.sources.headers import Counted, untold
from lego_ray.storage.uri import parse_uri

DTYPES = ("base", "F32", "BF16", "F16")


@checked
def bake(
    merged: Uri,
    *,
    base: Uri,
    output: Uri,
    dtype: str = "base",
    dry_run: bool = False,
    progress: Counted = untold,
) -> BakeRecord:
    """Writes the base model with an adapter merged into its weights, for servers that take a model.

    Weights are read and written one tensor at a time, in the files that the base model has, and are to
    the bit those of PEFT's `merge_and_unload`. Other files, such as the tokenizer's, are copied. Outputs
    are create-only; the file that makes the output a model is written last. A run that was killed goes
    on when it is run again.

    Args:
        merged: The adapter: a directory, `s3://bucket/prefix` or `hf://owner/name[@revision]`.
        base: The base model, in the same kinds of place, with its weights in safetensors.
        output: Where to write: a directory or `s3://bucket/prefix`.
        dtype: Element type to write: `base` for the base model's, or F32, BF16 or F16. The sum is made
            in the wider of both.
        dry_run: Say what would be changed, and write nothing.
        progress: Called with the number of files written, and of those there are.

    Returns:
        What was written; see `BakeRecord`, which is read like a dictionary too.

    Raises:
        UnusableBase: If the base model is quantized, not in safetensors, lacks a module that the adapter
            changes, or has one of another size. Nothing is written.
        NoAdaptersFound: If there is no adapter that can be baked, or there are several.
        OutputExists: If something else is at the output, such as what was baked from a base model that
            had other content then.
        SourceChanged: If a file of the adapter or the base model is written meanwhile. Nothing that
            loads as a model is left.
        NonFiniteWeights: If a weight becomes NaN or infinite.
        StorageError: If a store cannot be read or written.
    """
    if dtype not in DTYPES:
        raise InvalidOption("--dtype", f"{dtype!r} is not one of {', '.join(DTYPES)}")
    places = (parse_uri(merged), parse_uri(base), parse_uri(output))
    return run_bake(*places, dtype, dry_run=dry_run, progress=progress)
