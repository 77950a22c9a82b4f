"""The options of a recipe and of a run: types, bounds, help and defaults, each in this one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, TypedDict

from lego_ray.methods.names import ADAPTIVE, DEFAULT_METHOD, METHODS, SCALE_RULES, MethodOptions
from lego_ray.methods.presets import DEFAULT_PRESET, PRESETS, UPDATABLE_DEFAULT
from lego_ray.options import Option
from lego_ray.planning.scan_limits import DEFAULT_LIMITS, LIMITS

AUTO = "auto"
# Largest relative error of `--rank auto` unless another is given: nine tenths of the sum's squared
# norm are kept.
DEFAULT_ERROR = 0.3
LAYOUTS = ("sources", "peft", "kohya", "diffusers", "comfyui")
FULL_WEIGHTS = ("refuse", "drop", "sum", "average")
DTYPES = ("majority", "F32", "BF16", "F16")
CHECKPOINTS = ("last", "all")
RUNNERS = ("auto", "ray", "inline")
LARGEST_SEED = 2**63 - 1
DEFAULT_MEMORY_BUDGET = "4GiB"
# Those of `RunOptions` that a runner is made with.
RUNNER_OPTIONS = ("address", "workers", "max_workers", "wait", "gpus")


class SourceOptions(TypedDict, total=False):
    """Which adapters of the sources are taken."""

    exclude: Annotated[
        Sequence[str],
        Option(
            "Leave out adapters by glob pattern or id. The pattern is matched with their name, path "
            "below the source and URI; of an id, the first six digits or more are enough.",
            default=(),
            metavar="GLOB",
        ),
    ]
    full_weights: Annotated[
        str,
        Option(
            "What to do with weights that are not low-rank. For adapters with such weights, as "
            "modules_to_save and biases: refuse them, drop those weights, or keep those of the adapter "
            "called NAME. Of differences of weights, biases and norms, sum or average writes the sum or "
            "the mean of all adapters.",
            default="refuse",
            metavar=f"[{'|'.join(FULL_WEIGHTS)}|keep:NAME]",
        ),
    ]
    checkpoints: Annotated[
        str,
        Option(
            "Checkpoints of a training run to take. last: the final adapter, or the last checkpoint if "
            "there is none. all: all checkpoints, as adapters. An adapter that is a source by itself is "
            "always taken.",
            default="last",
            choices=CHECKPOINTS,
        ),
    ]
    scan_limits: Annotated[
        Mapping[str, float] | None,
        Option(
            "The most that a scan may find, list and read. adapters; objects, files of any kind; "
            "bytes, of headers. A scan that reaches a limit fails, and takes nothing.",
            default_said=str(DEFAULT_LIMITS),
            flag="--scan-limit",
            metavar=f"[{'|'.join(LIMITS)}]=N",
        ),
    ]


class ResultOptions(TypedDict, total=False):
    """What is made of the adapters."""

    rank: Annotated[
        int | str | None,
        Option(
            "Rank k of the merged adapter, several, or auto. K,K,... makes a merge at each rank from "
            "one read, in rank-K below the output; in Python it is merge_ranks, in a recipe file ranks. "
            "auto is the smallest rank at which the nearest adapter to the sum of the updates, over "
            "all sites, is within --rank-error of it; it reads the adapters twice.",
            metavar="K|K,K,...|auto",
            words=(AUTO,),
            at_least=1,
        ),
    ]
    rank_error: Annotated[
        float | None,
        Option(
            "For --rank auto: the largest relative error. It is sqrt(sum_{i>k} s_i^2 / sum_i s_i^2), s "
            "the singular values of the sums of updates at all sites. The nearest adapter is what svd "
            "makes; other methods are farther.",
            default_said=str(DEFAULT_ERROR),
            metavar="E",
            above=0,
            below=1,
        ),
    ]
    rank_budget: Annotated[
        int | None,
        Option(
            "Instead of --rank: spread the parameters of this rank over the sites. Each rank is given "
            "to the site where it lowers that error most, one to each at least. Implies --compact. "
            "Reads the adapters twice.",
            metavar="K",
            at_least=1,
        ),
    ]
    name: Annotated[
        str | None,
        Option(
            "Name of the merge in the catalog and the model card.",
            default_said="the last part of the output",
            metavar="N",
        ),
    ]
    preset: Annotated[
        str | None,
        Option(
            "Settle method, options, spectrum and output scale; see `lego-ray methods`. paper: "
            "LoRA-LEGO as published. lego-adaptive: the same, then spectrum and norm by how far the "
            "adapters differ. adaptive: these on the sum of the updates. iso, core-space: "
            "what kept most of real tasks. rank-one: the most of it that tells where each rank went. "
            "If one of --method, an option of a method, --spectrum and --output-scale is given without "
            "a preset, the others are: the method lego with its own defaults, spectrum 1, scale 1.",
            default_said=f"{DEFAULT_PRESET}, if no other option says how to merge",
            choices=tuple(PRESETS),
        ),
    ]
    method: Annotated[
        str | None,
        Option(
            "How to merge; `lego-ray methods` lists the methods.",
            default_said=f"the preset's, else {DEFAULT_METHOD}",
            metavar="METHOD",
            choices=tuple(METHODS),
        ),
    ]
    seed: Annotated[
        int,
        Option(
            "Fixes everything random.", default=0, metavar="S", at_least=0, at_most=LARGEST_SEED
        ),
    ]
    dtype: Annotated[
        str,
        Option(
            "Element type to write. majority is what most parameters of the adapters have.",
            default="majority",
            choices=DTYPES,
        ),
    ]
    layout: Annotated[
        str,
        Option(
            "Layout to write, with its names of the modules. sources is that of the adapters.",
            default="sources",
            choices=LAYOUTS,
        ),
    ]
    base_model: Annotated[
        str,
        Option(
            "Name of the base model, where the adapters disagree on it.", default="", metavar="NAME"
        ),
    ]
    only_base: Annotated[
        str,
        Option(
            "Take only adapters of this base model. A glob pattern may be given.",
            default="",
            metavar="NAME",
        ),
    ]
    base: Annotated[
        str | PathLike[str],
        Option(
            "The base model, to merge DoRA, PiSSA and OLoRA adapters too. It is a directory, "
            "s3://bucket/prefix or hf://owner/name[@revision]. Each adapter is merged as the plain LoRA "
            "nearest to what it does at its rank, or at twice its rank for PiSSA and OLoRA, which "
            "loses nothing.",
            default="",
            metavar="URI",
        ),
    ]
    weights: Annotated[
        Mapping[str, float] | None,
        Option(
            "Factor on the update of adapters, by name, glob, URI or id. It is 1 for those not meant; "
            "0 leaves an adapter out.",
            flag="--weight",
            metavar="NAME=W",
        ),
    ]
    spectrum: Annotated[
        float | str | None,
        Option(
            "Power of the singular values of each merged module. 1 leaves them, 0 makes them equal, "
            "whatever the method. adaptive: 1 for a lone adapter or copies of one, down to "
            "0 for adapters that have nothing in common.",
            default_said="the preset's, else 1",
            metavar=f"POWER|{ADAPTIVE}",
            words=(ADAPTIVE,),
        ),
    ]
    output_scale: Annotated[
        float | str | None,
        Option(
            "Factor on the merged update, or a rule for it. It follows any method. source-norm: "
            "the norm of each module is the root mean square of its adapters' norms. sum-fit: each is "
            "as near to the sum of its adapters as a factor brings it. adaptive: the norm of "
            "the sum where adapters have nothing in common, of one where they are equal, at most 1.5 "
            "times one, or adaptive:CAP times. Each "
            "may be multiplied: sum-fit*0.5.",
            default_said="the preset's, else 1",
            metavar=f"[C|{'|'.join(SCALE_RULES)}]",
        ),
    ]
    site_scales: Annotated[
        Mapping[str, float] | None,
        Option(
            "Another factor, by module. A module is named by its name, last parts of it or a glob "
            "pattern: q_proj=0.5, layers.0.*=2.",
            flag="--site-scale",
            metavar="GLOB=C",
        ),
    ]
    compact: Annotated[
        bool,
        Option("Write true ranks with rank_pattern instead of padding to rank k.", default=False),
    ]
    updatable: Annotated[
        bool,
        Option(
            "Keep running sums, for `lego-ray update`. They take about 8 bytes a parameter of the "
            "adapter, and 36 an MSU. For the lego method. If no other option says how to merge, the "
            f"preset is {UPDATABLE_DEFAULT}.",
            default=False,
        ),
    ]


class StrictOption(TypedDict, total=False):
    """What happens when an adapter cannot be taken."""

    strict: Annotated[
        bool, Option("Fail if any adapter is refused, or changes while it is read.", default=False)
    ]


class RunOptions(StrictOption, total=False):
    """How the work is done. The runner itself is an argument of each call."""

    address: Annotated[
        str,
        Option(
            "Where Ray is. local starts one, auto joins the running cluster, ray://... another.",
            default="local",
            metavar="ADDRESS",
        ),
    ]
    workers: Annotated[
        int | None,
        Option("Most tasks at once.", default_said="one a CPU", metavar="N", at_least=1),
    ]
    max_workers: Annotated[
        int | None,
        Option(
            "Most workers to ask a cluster for. A cluster that autoscales adds nodes for the tasks that "
            "wait, up to this many at once.",
            default_said="as many as there are tasks, up to 1000",
            metavar="N",
            at_least=1,
        ),
    ]
    wait: Annotated[
        float | None,
        Option(
            "Seconds to wait for a node that can hold the next task.",
            default_said="900",
            metavar="SECONDS",
            at_least=0,
        ),
    ]
    gpus: Annotated[
        float,
        Option(
            "Share of a GPU each task takes, such as 0.5 or 1. Ray counts them; 0 for none.",
            default=0.0,
            metavar="G",
            at_least=0,
            is_share=True,
        ),
    ]
    memory_budget: Annotated[
        int | str,
        Option(
            "Most memory one worker may take. A module whose MSUs need more is spread over several.",
            default=DEFAULT_MEMORY_BUDGET,
            metavar="SIZE",
        ),
    ]


class RecipeOptions(SourceOptions, ResultOptions, MethodOptions, total=False):
    """All that one merge may be asked for."""


class MergeOptions(RecipeOptions, RunOptions, total=False):
    """All that `merge` and `plan` accept, apart from places and a runner."""


class TagOptions(TypedDict, total=False):
    """Where tags come from, beside model cards."""

    tags: Annotated[
        str | PathLike[str] | None,
        Option(
            "CSV file with tags: a column `adapter` (name, glob, URI or id), and a column per tag. Its "
            "tags come before those of folders, and these before those of model cards.",
            metavar="FILE",
        ),
    ]
    tags_from_folders: Annotated[
        str | None,
        Option(
            "Keys for the names of the folders between the source and the adapter, such as "
            "task/language; * skips a level.",
            metavar="KEY/KEY",
        ),
    ]


class ScanOptions(SourceOptions, TagOptions, StrictOption, total=False):
    """All that `scan` accepts, apart from places."""
