"""A signal that comes while a package is imported ends a command as any other does."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

import pytest

from lego_ray.api import status
from lego_ray.cli.interrupts import resumable


def test_what_is_half_imported_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half_imported(output: str) -> NoReturn:
        raise AttributeError("module 'boto3' has no attribute 'utils'")

    monkeypatch.setattr(status, "status", half_imported)
    with pytest.raises(SystemExit) as ended, resumable("s3://bucket/m"):
        os.kill(os.getpid(), signal.SIGINT)
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted; `lego-ray status s3://bucket/m` shows its progress")
