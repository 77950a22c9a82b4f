"""The page: what it is at a glance, then section by section."""

from __future__ import annotations

from lego_ray.amounts import size
from lego_ray.reporting.clusters import flow, occupancy
from lego_ray.reporting.course import making, stages
from lego_ray.reporting.facts import Facts
from lego_ray.reporting.html import count, duration, number, text
from lego_ray.reporting.inputs import inputs
from lego_ray.reporting.layers import errors, norms
from lego_ray.reporting.similarity import similarity_section
from lego_ray.reporting.style import style

# What a page starts with, by which one written before is known from other files.
START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="generator" content="lego-ray report">'
)
# Nothing is fetched and nothing runs, whatever a name holds: no address, no script, no form.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_LINKS = (
    ("inputs", "What went in"),
    ("map", "How alike"),
    ("clusters", "Clusters"),
    ("flow", "Where each went"),
    ("errors", "Error and inertia"),
    ("norms", "Norms"),
    ("stages", "Time and bytes"),
    ("making", "How it was made"),
)


def page(facts: Facts) -> bytes:
    """Writes the page: the same bytes for the same facts by the same software.

    It stands alone: no network, no script. Names of adapters, sites and models may hold anything, and
    mean nothing as markup.

    Args:
        facts: What is known of the merge.

    Returns:
        HTML, UTF-8.
    """
    name = text(facts.manifest["name"])
    links = "".join(f'<li><a href="#{to}">{text(title)}</a></li>' for to, title in _LINKS)
    parts = (
        START,
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: how this adapter was merged</title>",
        f"<style>{style()}</style></head><body>",
        '<a class="skip" href="#content">Skip to the content</a>',
        f'<header><p class="over">A merge by lego-ray</p><h1>{name}</h1>',
        f'<p class="lead">{text(_lead(facts))}</p>{_at_a_glance(facts)}',
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main id="content">',
        inputs(facts),
        similarity_section(facts),
        occupancy(facts),
        flow(facts),
        errors(facts),
        norms(facts),
        stages(facts),
        making(facts),
        f"</main><footer>Of the merge at {text(facts.place)}. Made by lego-ray report; needs no "
        "network.</footer></body></html>",
    )
    return ("\n".join(parts) + "\n").encode("utf-8", "replace")


def _lead(facts: Facts) -> str:
    manifest = facts.manifest
    base = manifest.get("base_model")
    refused = len(manifest.get("refused", []))
    row = facts.recorded.merge if facts.recorded else None
    return (
        f"One LoRA adapter of rank {_rank(facts)}"
        + (f" on {base}" if base else "")
        + f", merged from {count(len(manifest['sources']), 'adapter')} by the method "
        f"{manifest['recipe']['method']}"
        + (f" on {row['created_at']:%Y-%m-%d}" if row else "")
        + (f"; {count(refused, 'other')} stayed out." if refused else ".")
    )


def _rank(facts: Facts) -> str:
    ranks = facts.manifest["recipe"].get("ranks") or {}
    if ranks:
        low, high = min(ranks.values()), max(ranks.values())
        return str(low) if low == high else f"{low} to {high}"
    rank = facts.manifest["recipe"].get("rank")
    return "as chosen" if rank is None else str(rank)


def _at_a_glance(facts: Facts) -> str:
    manifest = facts.manifest
    shown = [
        ("adapters merged", f"{len(manifest['sources']):,}"),
        ("refused", f"{len(manifest.get('refused', [])):,}"),
        ("rank", _rank(facts)),
        ("sites", f"{manifest.get('sites', len(facts.sites)):,}"),
    ]
    msus = sum(s.n_msus or 0 for s in facts.sites)
    merged = sum(s.rank or 0 for s in facts.sites)
    if msus and merged:
        shown.append(("MSUs, into merged ranks", f"{msus:,} → {merged:,}"))
    if facts.measured:
        error = facts.measured.errors["relative_error_to_sum"]
        shown.append(("relative error to the sum", number(error)))
    if facts.recorded:
        shown.append(("time of the run", duration(facts.recorded.merge["seconds"])))
    n_bytes = sum(f["bytes"] for f in manifest["files"].values())
    shown.append(("size of the merged adapter", size(n_bytes)))
    each = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in shown)
    return f'<dl class="key">{each}</dl>'
