from __future__ import annotations

import os
from pathlib import Path

import pytest

from lego_ray.storage.carried import settings_here, use_settings


def test_only_settings_without_secrets_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("https_proxy", "http://user:password@proxy.example")
    assert settings_here() == {"AWS_ENDPOINT_URL": "https://store.example"}


def test_what_was_given_before_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    use_settings({"AWS_REGION": "us-east-1", "HTTP_PROXY": "http://proxy.example"})
    assert (os.environ["AWS_REGION"], os.environ["HTTP_PROXY"]) == (
        "us-east-1",
        "http://proxy.example",
    )
    use_settings({})
    assert os.environ["AWS_REGION"] == "eu-west-1"
    assert "HTTP_PROXY" not in os.environ


def test_a_node_without_the_file_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/node.pem")
    use_settings({"AWS_CA_BUNDLE": str(tmp_path / "missing.pem")})
    assert os.environ["AWS_CA_BUNDLE"] == "/etc/node.pem"
    (tmp_path / "there.pem").touch()
    use_settings({"AWS_CA_BUNDLE": str(tmp_path / "there.pem")})
    assert os.environ["AWS_CA_BUNDLE"] == str(tmp_path / "there.pem")
    use_settings({})
