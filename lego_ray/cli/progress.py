"""Progress on a terminal, with its rate and the time left; silence where stderr is not a terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from lego_ray.api.progress_bar import NAME_COLUMNS, ProgressBar

__all__ = ["NAME_COLUMNS", "CountProgress", "SiteProgress"]


class SiteProgress(ProgressBar):
    """Shows sites solved, sites a second, the time left, and bytes read, in all and a second."""

    def __enter__(self) -> SiteProgress:
        return self

    def _new(self, **shown: Any) -> tqdm[Any]:
        # disable=None: none where the file is not a terminal.
        return tqdm(file=sys.stderr, disable=None, dynamic_ncols=True, **shown)


class CountProgress(SiteProgress):
    """Shows how many of some things are done, how many a second, and the time left."""
