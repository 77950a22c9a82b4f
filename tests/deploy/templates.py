"""The files of `deploy/`, their placeholders resolved as the command in each file's head does it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VALUES = {
    "IMAGE": "registry.example.com/lego-ray:0.1.0",
    "BUCKET": "zoo-of-acme",
    "AWS_REGION": "eu-central-1",
    "ROLE_ARN": "arn:aws:iam::123456789012:role/lego-ray",
    "AMI": "ami-0123456789abcdef0",
}


def resolved(name: str, variables: str | None = None) -> str:
    """A file's text, resolved.

    Args:
        name: Its path below `deploy/`.
        variables: What `envsubst` is told to replace, if the file does not say.
    """
    text = (DEPLOY / name).read_text()
    if variables is None:
        found = re.search(rf"envsubst '([^']+)' < deploy/{re.escape(name)}", text)
        assert found, f"{name} does not say how it is resolved"
        variables = found[1]
    names = [word.removeprefix("$") for word in variables.split()]
    result = re.sub(
        r"\$\{(\w+)\}|\$(\w+)",
        lambda m: VALUES[m[1] or m[2]] if (m[1] or m[2]) in names else m[0],
        text,
    )
    body = "\n".join(line for line in result.splitlines() if not line.startswith("#"))
    assert "${" not in body, f"{name} has placeholders that its command leaves"
    if program := shutil.which("envsubst"):
        done = subprocess.run(
            [program, variables],
            input=text,
            env={**os.environ, **VALUES},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == result
    return result
