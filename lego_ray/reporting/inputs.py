"""What went in, and what was refused."""

from __future__ import annotations

from collections import Counter

from lego_ray.reporting.facts import Facts
from lego_ray.reporting.html import count, folded, paragraph, section, table, text

# Reasons listed before the table.
REASONS = 5


def inputs(facts: Facts) -> str:
    """The section of adapters taken and left out."""
    sources, refused = facts.manifest["sources"], facts.manifest.get("refused", [])
    by_rank = Counter(_ranks(source) for source in sources)
    ranks = ", ".join(f"{n:,} of rank {rank}" for rank, n in sorted(by_rank.items(), key=_rank_key))
    weighted = sum(source.get("weight", 1) != 1 for source in sources)
    licenses = Counter(source.get("license") or "none named" for source in sources)
    said = [f"{count(len(sources), 'adapter')} went in: {ranks}."]
    if weighted:
        said.append(f"{count(weighted, 'adapter')} had a weight other than 1.")
    named = ", ".join(f"{name} ({n:,})" for name, n in licenses.most_common())
    said.append(f"Licenses: {named}.")
    content = [paragraph(*said)]
    warnings = facts.manifest.get("warnings", [])
    if warnings:
        points = "".join(f"<li>{text(point)}</li>" for point in warnings)
        content += [paragraph("Warnings of the plan:"), f"<ul>{points}</ul>"]
    conflicts = facts.manifest.get("license_conflicts", [])
    if conflicts:
        points = "".join(f"<li>{text(point)}</li>" for point in conflicts)
        content += [paragraph("To check before it is passed on; no legal advice:")]
        content += [f"<ul>{points}</ul>"]
    rows = (
        (name, _ranks(s), s.get("weight", 1.0), s.get("license") or "-", s["uri"], s["adapter_id"])
        for name, s in zip(facts.names, sources, strict=True)
    )
    heads = ("adapter", "rank", "weight", "license", "where it was read", "adapter_id")
    whole = table("Adapters that were merged", heads, rows)
    content.append(folded(f"All {count(len(sources), 'adapter')}", whole))
    content += _refused(refused)
    return section("inputs", "What went in", *content)


def _refused(refused: list[dict[str, str]]) -> list[str]:
    if not refused:
        return [paragraph("No adapter was refused.")]
    kinds = Counter(each["reason"].split(":", 1)[0] for each in refused)
    top = ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common(REASONS))
    more = ", ..." if len(kinds) > REASONS else ""
    rows = ((r["adapter"], r.get("status", "refused"), r["reason"]) for r in refused)
    whole = table("Adapters that were refused", ("adapter", "status", "reason"), rows)
    said = f"{count(len(refused), 'adapter')} stayed out: {top}{more}."
    return [paragraph(said), folded("Each one, and why", whole)]


def _ranks(source: dict[str, int]) -> str:
    low, high = source.get("rank_min", 0), source.get("rank_max", 0)
    return str(low) if low == high else f"{low} to {high}"


def _rank_key(pair: tuple[str, int]) -> tuple[int, str]:
    return int(pair[0].split()[0]), pair[0]
