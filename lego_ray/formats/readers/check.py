"""Holds an output against its layout's readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lego_ray.errors import MalformedAdapter, UnreadableOutput
from lego_ray.formats.readers import diffusers, kohya, peft, servers
from lego_ray.formats.readers.outgoing import Finding, Outgoing

Rules = Callable[[Outgoing], Iterator[Finding]]

_RULES: Mapping[str, tuple[Rules, ...]] = {
    "peft": (peft.findings, servers.findings),
    "kohya": (kohya.findings,),
    "diffusers": (diffusers.findings,),
}


def check_readers(outgoing: Outgoing) -> tuple[str, ...]:
    """Passes an output that the main reader of its layout loads whole and as it is meant.

    Args:
        outgoing: The output.

    Returns:
        Limits of it, one sentence each without its full stop: readers that refuse it, or what they
        must be given for it.

    Raises:
        UnreadableOutput: If that reader would raise, or drop or misread a part of it.
        MalformedAdapter: If it is in no layout of this release.
    """
    if outgoing.layout not in _RULES:
        problem = f"its layout is {outgoing.layout[:80]!r}, expected one of {', '.join(_RULES)}"
        raise MalformedAdapter(outgoing.where, problem)
    limits: dict[str, None] = {}
    for rules in _RULES[outgoing.layout]:
        for finding in rules(outgoing):
            if finding.is_fatal:
                raise UnreadableOutput(outgoing.where, finding.text, finding.hint)
            limits[finding.text] = None
    return tuple(limits)
