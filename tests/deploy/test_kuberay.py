"""The manifests against KubeRay's own schemas, as an API server with strict validation reads them."""

from __future__ import annotations

import copy
import gzip
import shlex
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from lego_ray.cli.refresh import refresh
from lego_ray.jobs import refresh_library
from tests.deploy.templates import DEPLOY, ROOT, VALUES, resolved

SCHEMAS = ROOT / "tests/fixtures/kuberay"
STRUCTURAL = ("properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields")


def schema(plural: str) -> dict[str, Any]:
    """The schema of version v1 in JSON Schema's own terms."""
    text = gzip.decompress((SCHEMAS / f"ray.io_{plural}.yaml.gz").read_bytes())
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    versions = yaml.load(text, loader)["spec"]["versions"]
    [v1] = [v for v in versions if v["name"] == "v1"]
    return dict(strict(v1["schema"]["openAPIV3Schema"], top=True))


def strict(node: Any, top: bool = False) -> Any:
    """A structural schema with unknown fields refused, and Kubernetes' own marks spelt out."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {
        key: {name: strict(each) for name, each in value.items()}
        if key == "properties"
        else strict(value)
        for key, value in node.items()
        if key not in ("default", "description")
    }
    if top:
        # `metadata` is of every kind, and checked by the API server.
        made["properties"]["metadata"] = {"type": "object"}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
    if "properties" in made and not any(key in made for key in STRUCTURAL[1:]):
        made["additionalProperties"] = False
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


@pytest.fixture(scope="module")
def job_schema() -> Draft202012Validator:
    return Draft202012Validator(schema("rayjobs"))


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(resolved(f"kuberay/{name}")))


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [one] = [each for each in found if each["kind"] == kind]
    return one


def nightly() -> dict[str, Any]:
    """The RayJob that the CronJob creates."""
    data = of_kind(manifests("cronjob.yaml"), "ConfigMap")["data"]
    return dict(yaml.safe_load(data["rayjob.yaml"]))


def test_the_job_is_one(job_schema: Draft202012Validator) -> None:
    [job] = manifests("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    job_schema.validate(job)


def test_the_scheduled_form_is_one() -> None:
    [job] = manifests("raycronjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayCronJob")
    Draft202012Validator(schema("raycronjobs")).validate(job)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypont"), "x"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containrs"), []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "8"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokn"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_a_mistake_would_be_found(
    path: tuple[str | int, ...], value: object, job_schema: Draft202012Validator
) -> None:
    [job] = copy.deepcopy(manifests("rayjob.yaml"))
    place: Any = job
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        job_schema.validate(job)


def test_all_forms_run_the_same_job(job_schema: Draft202012Validator) -> None:
    [job] = manifests("rayjob.yaml")
    [scheduled] = manifests("raycronjob.yaml")
    job_schema.validate(nightly())
    assert scheduled["spec"]["jobTemplate"] == job["spec"] == nightly()["spec"]


def test_the_entry_point_takes_what_it_is_given() -> None:
    [job] = manifests("rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", refresh_library.__name__]
    given = refresh.make_context("refresh", words[3:]).params
    assert given["recipe"] == f"s3://{VALUES['BUCKET']}/library.yaml"
    assert given["catalog"] == f"s3://{VALUES['BUCKET']}/catalog"


def test_the_cluster_runs_the_ray_that_is_installed_and_pods_are_not_root() -> None:
    [job] = manifests("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    account = yaml.safe_load(resolved("kuberay/service-account.yaml"))
    for pod in pods:
        spec = pod["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["serviceAccountName"] == account["metadata"]["name"]
        for container in spec["containers"]:
            assert container["image"] == VALUES["IMAGE"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert container["resources"]["limits"]["memory"]


def pods_of(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The templates of all pods of a job, by what they are."""
    cluster = job["spec"]["rayClusterSpec"]
    return {
        "submitter": job["spec"]["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
    }


@pytest.mark.parametrize("pod", ["submitter", "head", "worker"])
def test_pods_fit_the_restricted_level_and_hold_no_secrets(pod: str) -> None:
    [job] = manifests("rayjob.yaml")
    spec = pods_of(job)[pod]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["restartPolicy"] == "Never"
    assert spec.get("automountServiceAccountToken", True) == (pod == "head")
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert [each["name"] for each in container.get("env", ())] in ([], ["AWS_REGION"])
        assert not {"envFrom", "livenessProbe", "readinessProbe"} & container.keys()
        assert container["image"] == VALUES["IMAGE"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_a_run_loses_workers_only_and_ends_in_time() -> None:
    [job] = manifests("rayjob.yaml")
    head, worker = (pods_of(job)[name] for name in ("head", "worker"))
    capacity = "karpenter.sh/capacity-type"
    assert head["spec"]["nodeSelector"] == {capacity: "on-demand"}
    assert head["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    assert worker["spec"]["nodeSelector"] == {capacity: "spot"}
    assert worker["spec"]["tolerations"][0]["value"] == "spot"
    assert worker["spec"]["terminationGracePeriodSeconds"] < 120  # a spot node's notice
    [container] = worker["spec"]["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "ray stop"
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (0, True)
    # Less than a day: the next night's run is not met.
    assert spec["activeDeadlineSeconds"] + spec["ttlSecondsAfterFinished"] < 24 * 3600


def test_the_autoscaler_says_what_no_node_can_hold() -> None:
    """`lego_ray.runners.ray.room` asks it for that, and its first version does not say."""
    [job] = manifests("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    options = cluster["autoscalerOptions"]
    assert options["version"] == "v2"
    assert {"cpu", "memory"} <= options["resources"]["requests"].keys()
    assert options["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_readme_gives_a_reason_for_each_choice() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for choice in (
        *("num-cpus", "do-not-disrupt", "preStop", "version: v2", "submitterConfig", "probes"),
        *("activeDeadlineSeconds", "ttlSecondsAfterFinished", "seccompProfile", "secrets"),
        *("automountServiceAccountToken", "ephemeral-storage", "digest", "toleration"),
    ):
        assert choice in readme, choice


def test_the_cron_job_creates_that_job_and_may_do_no_more() -> None:
    found = manifests("cronjob.yaml")
    role, binding = of_kind(found, "Role"), of_kind(found, "RoleBinding")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = of_kind(found, "ServiceAccount")["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == [account]
    pod = of_kind(found, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert not container["image"].endswith((":latest", "kubectl"))
    [mount], [volume] = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    config = of_kind(found, "ConfigMap")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    [name] = config["data"]
    assert f"{mount['mountPath']}/{name}" in container["args"]
    # Each night's job needs a name of its own.
    assert nightly()["metadata"] == {"generateName": "refresh-library-"}
