"""The results as a Markdown page with tables, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]

# Second-hand, of other bases and tasks: CLIP ViT-B/32, eight image tasks, per cent of single-task
# accuracy. The first four from TARA-Merge, the others, at rank 16, from Compress-then-Merge.
PUBLISHED = (
    ("LoRA-LEGO", 62.9),
    ("task arithmetic", 63.8),
    ("TIES", 64.9),
    ("KnOTS-TIES", 68.0),
    ("TIES in Core Space", 65.3),
    ("CtM-DARE-TIES", 70.7),
)


def markdown(results: Results) -> str:
    """The page; every number in it is in the JSON file beside it."""
    settings = results["settings"]
    parts = [
        "# What merged adapters can still do",
        f"Made by `python -m jobs.benchmarks.quality` ({results['date']}); all figures are in "
        "`quality.json`. Accuracy in per cent, with one standard error over the test rows; "
        "differences are paired, row by row.",
        f"Base: MiniLM (6 layers), with a frozen linear head a task. {len(settings['tasks'])} natural "
        f"tasks: {', '.join(settings['tasks'])}; {settings['test_rows']} test rows each at most. "
        "Adapters of rank 8 on all 36 linear modules, from two training seeds, in zoos whose adapters "
        "start from seeds of their own (`separate`) and from one (`shared`). Each merge has rank 8 "
        "unless said. **Scale**: the one found for that merge on validation rows of the first seed's "
        "zoos, in units of the sources' root mean square norm; then tested once.",
        "## All methods, scale tuned",
        _table(
            ("merge", "mean", "against paper", *settings["zoos"], "scale", "validation"),
            [_tuned_row(r, settings["zoos"]) for r in results["bounds"] + results["tuned"]],
        ),
        "## Task by task, scale tuned",
        _table(
            ("merge", *settings["tasks"]),
            [
                (r["label"], *(_percent(r["by_task"][t]) for t in settings["tasks"]))
                for r in results["bounds"] + results["tuned"]
            ],
        ),
    ]
    if results.get("as_they_come"):
        parts += [
            "## As they come, no data needed",
            _table(
                (
                    "merge",
                    "mean",
                    "against paper",
                    *settings["zoos"],
                    "validation",
                    "its difference",
                ),
                [_preset_row(r, settings["zoos"]) for r in results["as_they_come"]],
            ),
        ]
    for key, title in (
        ("mixed", "## Adapters of ranks 4, 8 and 16, merged at rank 8, scale tuned"),
        ("by_rank", "## Accuracy against k (first zoo of separate starts, scale tuned at rank 8)"),
        ("pruning", "## One adapter pruned from rank 8 to k, as it comes"),
        ("constructed", "## A constructed task's adapter added (which words are swapped)"),
    ):
        if results.get(key):
            parts += [title, _records(results[key])]
    if results.get("language"):
        parts += [
            "## SmolLM2-135M: perplexity on held-out text (lower is better), scale tuned",
            _language(results["language"]),
        ]
    if results.get("language_as_they_come"):
        parts += [
            "## SmolLM2-135M, with default settings; scale is that of the rule, in units of the sources",
            _language(results["language_as_they_come"]),
        ]
    parts += [
        "## Published, for comparison",
        "Other bases and tasks (CLIP ViT-B/32, eight image tasks, per cent of each task's own "
        "adapter), second-hand: "
        + ", ".join(f"{label} {value}" for label, value in PUBLISHED)
        + ". Llama-2-7B, nine language tasks: fusion 47.2, ensemble 56.8, LoRA-LEGO 62.2.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(results: Results, path: Path) -> None:
    """Draws the merges' means with their errors, and accuracy against k, as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lego-ray"  # the same figure, the same file
    from matplotlib import pyplot as plt

    figure, (bars, lines) = plt.subplots(1, 2, figsize=(12, 5.5), width_ratios=(3, 2))
    tuned = sorted(results["tuned"], key=lambda r: r["mean"])
    at = range(len(tuned))
    bars.errorbar(
        [100 * r["mean"] for r in tuned],
        list(at),
        xerr=[100 * r["error"] for r in tuned],
        fmt="o",
        color="#1f4e79",
        capsize=3,
    )
    bars.set_yticks(list(at), [r["label"] for r in tuned])
    for r, style in zip(results["bounds"], (":", "--"), strict=True):
        bars.axvline(100 * r["mean"], color="#555555", linestyle=style, label=r["label"])
    bars.set_xlabel("mean accuracy over tasks and zoos, %, one standard error")
    bars.set_title("Rank 8, one scale tuned on validation")
    bars.legend(loc="lower right")
    bars.grid(axis="x", alpha=0.3)
    for label in dict.fromkeys(r["label"] for r in results.get("by_rank", ())):
        points = [r for r in results["by_rank"] if r["label"] == label]
        lines.errorbar(
            [r["rank"] for r in points],
            [100 * r["mean"] for r in points],
            yerr=[100 * r["error"] for r in points],
            marker="o",
            capsize=3,
            label=label,
        )
    lines.set_xscale("log", base=2)
    lines.set_xlabel("k, rank of the merged adapter")
    lines.set_ylabel("mean accuracy, %")
    lines.set_title("Accuracy against k")
    if results.get("by_rank"):
        lines.legend()
    lines.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _tuned_row(record: Results, zoos: Sequence[str]) -> tuple[str, ...]:
    scale, validation = record.get("scale"), record.get("validation")
    return (
        record["label"],
        _with_error(record["mean"], record["error"]),
        _difference(record, ""),
        *(_percent(record["by_zoo"][zoo]) for zoo in zoos),
        "" if scale is None else f"{scale:g}",
        "" if validation is None else _percent(validation),
    )


def _preset_row(record: Results, zoos: Sequence[str]) -> tuple[str, ...]:
    return (
        record["label"],
        _with_error(record["mean"], record["error"]),
        _difference(record, ""),
        *(_percent(record["by_zoo"][zoo]) for zoo in zoos),
        _percent(record["validation"]),
        _difference(record, "validation_"),
    )


def _difference(record: Results, prefix: str) -> str:
    if f"{prefix}difference" not in record:
        return ""
    value, error = record[f"{prefix}difference"], record[f"{prefix}difference_error"]
    return f"{100 * value:+.1f} ± {100 * error:.1f}"


def _records(records: Sequence[Results]) -> str:
    """A table of short records; of those with ranks, a column a rank."""
    if "rank" not in records[0]:
        extra = [key for key in records[0] if key == "order"]
        return _table(
            ("merge", "natural tasks" if extra else "mean", *extra),
            [
                (r["label"], _with_error(r["mean"], r["error"]), *(_percent(r[k]) for k in extra))
                for r in records
            ],
        )
    ranks = sorted({r["rank"] for r in records})
    cells = {(r["label"], r["rank"]): _with_error(r["mean"], r["error"]) for r in records}
    labels = dict.fromkeys(r["label"] for r in records)
    return _table(
        ("merge", *(f"k = {rank}" for rank in ranks)),
        [(label, *(cells.get((label, rank), "") for rank in ranks)) for label in labels],
    )


def _language(records: Sequence[Results]) -> str:
    kinds = list(records[0]["perplexity"])
    return _table(
        ("merge", "mean log-likelihood a token", *kinds, "scale"),
        [
            (
                r["label"],
                f"{r['mean']:.3f} ± {r['error']:.3f}",
                *(f"{r['perplexity'][kind]:.1f}" for kind in kinds),
                _scale(r.get("scale")),
            )
            for r in records
        ],
    )


def _scale(scale: float | Sequence[float] | None) -> str:
    """One scale, or that of the one zoo."""
    if scale is None:
        return ""
    return f"{scale if isinstance(scale, int | float) else scale[0]:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_error(share: float, error: float) -> str:
    return f"{100 * share:.1f} ± {100 * error:.1f}"
