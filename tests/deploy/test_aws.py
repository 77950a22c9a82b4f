"""The files for AWS: Ray's schema, botocore's models, and a gateway that enforces the policy."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import ray
import yaml

import lego_ray
from lego_ray.errors import AccessDenied
from lego_ray.storage.open import open_store
from tests.ceph_gateway import S3Server, second_user
from tests.deploy.templates import DEPLOY, ROOT, VALUES, resolved
from tests.zoo import write_adapter, write_zoo

README = (DEPLOY / "README.md").read_text()
RECIPE = """
sources: [s3://{bucket}/adapters]
merges: [{{name: all, rank: 4, options: {{n_init: 2}}}}]
"""


def policy(name: str) -> dict[str, Any]:
    """A policy, resolved."""
    return dict(json.loads(resolved(f"aws/{name}", "$BUCKET $AWS_REGION")))


def actions(name: str) -> list[str]:
    """The actions a policy allows."""
    found: list[str] = []
    for statement in policy(name)["Statement"]:
        given = statement["Action"]
        found += [given] if isinstance(given, str) else given
    return found


@pytest.mark.parametrize("name", ["iam-policy.json", "launcher-policy.json"])
def test_each_action_is_justified_and_none_is_a_pattern(name: str) -> None:
    justified = set(re.findall(r"^\| `((?:s3|ec2|iam):\w+)` \|", README, re.MULTILINE))
    assert set(actions(name)) <= justified
    assert not any("*" in action for action in actions(name))
    everything = {*actions("iam-policy.json"), *actions("launcher-policy.json")}
    assert justified == everything


# What each call of a client needs, from Amazon's service authorisation reference.
NEEDS = {
    "get_paginator": "s3:ListBucket",  # of list_objects_v2
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
}


def test_every_call_that_the_store_makes_is_allowed() -> None:
    calls = set()
    for path in (ROOT / "lego_ray/storage").glob("s3*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            # `client.get_object`, `self._client.get_object`.
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value).rpartition(".")[2]
                calls |= {node.attr} if owner.lstrip("_") == "client" else set()
    assert calls - {"meta", "close"} == NEEDS.keys()
    assert {NEEDS[call] for call in calls if call in NEEDS} <= set(actions("iam-policy.json"))


def test_the_launcher_file_is_one_that_ray_takes() -> None:
    config = yaml.safe_load(resolved("aws/cluster.yaml"))
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_worker": 1}, schema)
    types = config["available_node_types"]
    head, worker = types[config["head_node_type"]], types["spot-worker"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]
    model = boto3.session.Session(region_name="eu-central-1").client(
        "ec2", aws_access_key_id="x", aws_secret_access_key="x"
    )
    for each in (head, worker):
        check(model, "RunInstances", {"MinCount": 1, "MaxCount": 1, **each["node_config"]})
    # EC2 says to no S3 client where its bucket is.
    assert "--env AWS_REGION=eu-central-1" in config["docker"]["run_options"]
    role = worker["node_config"]["IamInstanceProfile"]["Name"]
    [passed] = [
        s["Resource"]
        for s in policy("launcher-policy.json")["Statement"]
        if s["Action"] == "iam:PassRole"
    ]
    assert passed.endswith(f":role/{role}")
    assert f'"{config["cluster_name"]}"' in json.dumps(policy("launcher-policy.json"))


def test_the_lifecycle_rules_are_ones_that_s3_takes() -> None:
    rules = json.loads(resolved("aws/lifecycle.json", ""))
    client = boto3.client(
        "s3", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    request = {"Bucket": "b", "LifecycleConfiguration": rules}
    check(client, "PutBucketLifecycleConfiguration", request)
    aborts = [r for r in rules["Rules"] if "AbortIncompleteMultipartUpload" in r]
    assert [r["Filter"] for r in aborts] == [{"Prefix": ""}]
    # Nothing that lives expires but what lego-ray keeps for runs under way.
    for rule in rules["Rules"]:
        if "Days" in rule.get("Expiration", {}):
            assert rule["Filter"]["Prefix"].endswith("/.lego-ray/")


def check(client: Any, operation: str, request: dict[str, Any]) -> None:
    """Holds a request against botocore's model: unknown members and wrong types are errors."""
    from botocore.validate import ParamValidator

    shape = client.meta.service_model.operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.fixture
def restricted(s3_env: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket in which this test may do what the policy allows, and nothing else."""
    user = second_user(s3_env)
    text = (DEPLOY / "aws/iam-policy.json").read_text().replace("${BUCKET}", s3_bucket)
    allowed = json.loads(text)
    for statement in allowed["Statement"]:
        statement["Principal"] = {"AWS": [user.arn]}
    owner = boto3.client("s3", endpoint_url=s3_env.endpoint_url)
    owner.put_bucket_policy(Bucket=s3_bucket, Policy=json.dumps(allowed))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user.secret_key)
    return s3_bucket


@pytest.mark.s3
def test_a_nightly_refresh_needs_no_more_than_the_policy(
    restricted: str, s3_server: S3Server, tmp_path: Path
) -> None:
    write_zoo(tmp_path / "adapters", 2)
    (tmp_path / "library.yaml").write_text(RECIPE.format(bucket=restricted))
    s3_server.upload(tmp_path, restricted)
    places: dict[str, Any] = {
        "output": f"s3://{restricted}/library",
        "catalog": f"s3://{restricted}/catalog",
        "runner": "inline",
    }
    recipe = f"s3://{restricted}/library.yaml"
    assert lego_ray.refresh(recipe, **places)["status"] == "refreshed"
    assert lego_ray.refresh(recipe, **places)["status"] == "unchanged"
    write_adapter(tmp_path / "adapters/newcomer", seed=77)
    s3_server.upload(tmp_path, restricted)
    record = lego_ray.refresh(recipe, **places)
    assert [m["version"] for m in record["merges"]] == [2]
    lego_ray.catalog.compact(places["catalog"])
    lego_ray.collect_garbage(places["catalog"], places["output"], delete=True)

    for key in ("adapters/mine.txt", "elsewhere/mine.txt", "library.yaml"):
        with pytest.raises(AccessDenied):
            open_store(f"s3://{restricted}").create(key, b"x")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("x")
    s3_server.upload(tmp_path, restricted)
    with pytest.raises(AccessDenied):
        open_store(f"s3://{restricted}").read("secrets/key")
    assert os.environ["AWS_ACCESS_KEY_ID"] != s3_server.access_key


@pytest.mark.s3
def test_a_server_takes_the_lifecycle_rules(s3_bucket: str, s3_env: S3Server) -> None:
    client = boto3.client("s3", endpoint_url=s3_env.endpoint_url)
    rules = json.loads(resolved("aws/lifecycle.json", ""))
    client.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration=rules)
    taken = client.get_bucket_lifecycle_configuration(Bucket=s3_bucket)["Rules"]
    assert {r["ID"] for r in taken} == {r["ID"] for r in rules["Rules"]}


def test_values_stand_for_all_placeholders() -> None:
    named = {
        name
        for path in DEPLOY.rglob("*")
        if path.suffix in (".yaml", ".json")
        for name in re.findall(r"\$\{(\w+)\}", path.read_text())
    }
    assert named == VALUES.keys()
