"""Holds an output against its layout's readers."""

from __future__ import annotations

from lego_ray.errors import UnreadableOutput
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.readers.outgoing import Outgoing


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
    limits: dict[str, None] = {}
    for rules in output_layout(outgoing.layout, outgoing.where).rules:
        for finding in rules(outgoing):
            if finding.is_fatal:
                raise UnreadableOutput(outgoing.where, finding.text, finding.hint)
            limits[finding.text] = None
    return tuple(limits)
