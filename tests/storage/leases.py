"""Leases whose holder is dead."""

from __future__ import annotations

from lego_ray.storage.lease import Lease


def fall_silent(lease: Lease) -> None:
    """Ends a lease's signs of life without letting go of it, as the death of its process would."""
    lease._done.set()
    if lease._thread is not None:
        lease._thread.join()
