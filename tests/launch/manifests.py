"""Checks YAML files for Kubernetes without a cluster: what the API would refuse, drop or not run as meant.

    python -m tests.launch.manifests FILE.yaml

prints one line for each problem of a rendered file, and ends with 1 if there are any.
"""

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubeflow_trainer_api import models
from pydantic import ValidationError

KUBERNETES = "1.37"  # the newest schemas that kubernetes-validate carries

MODELS = {
    "JobSet": models.JobsetV1alpha2JobSet,
    "TrainJob": models.TrainerV1alpha1TrainJob,
    "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
}

# The models take any text for these (JobSet 0.12).
ACTIONS = {
    "FailJobSet",
    "RestartJobSet",
    "RestartJobSetAndIgnoreMaxRestarts",
    "RestartJob",
    "RestartJobAndIgnoreMaxRestarts",
}
STRATEGIES = {"Recreate", "BlockingRecreate", "InPlaceRestart"}

FLAT = ["2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
CUBIC = ["2x2x1", "2x2x2", "2x2x4", "2x4x4"]  # and those of `_cubes`

# gke-tpu-accelerator: {machine type: (its chips, topologies, the most cubes of 4x4x4 chips)}
TPUS: dict[str, dict[str, tuple[int, list[str], int]]] = {
    "tpu-v4-podslice": {"ct4p-hightpu-4t": (4, CUBIC, 64)},
    "tpu-v5-lite-podslice": {
        "ct5lp-hightpu-1t": (1, ["1x1"], 0),
        "ct5lp-hightpu-4t": (4, FLAT, 0),
        "ct5lp-hightpu-8t": (8, ["2x4"], 0),
    },
    "tpu-v5p-slice": {"ct5p-hightpu-4t": (4, CUBIC, 140)},
    "tpu-v6e-slice": {
        "ct6e-standard-1t": (1, ["1x1"], 0),
        "ct6e-standard-4t": (4, FLAT, 0),
        "ct6e-standard-8t": (8, ["2x4"], 0),
    },
    "tpu7x": {"tpu7x-standard-1t": (1, ["1x1x1"], 0), "tpu7x-standard-4t": (4, CUBIC, 144)},
}

# gke-accelerator: (machine type, its GPUs)
GPUS = {
    "nvidia-h100-80gb": ("a3-highgpu-8g", 8),
    "nvidia-h100-mega-80gb": ("a3-megagpu-8g", 8),
    "nvidia-h200-141gb": ("a3-ultragpu-8g", 8),
    "nvidia-b200": ("a4-highgpu-8g", 8),
    "nvidia-gb200": ("a4x-highgpu-4g", 4),
}

RESTART = [42, *range(128, 256)]
TPU = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY = "cloud.google.com/gke-tpu-topology"
GPU = "cloud.google.com/gke-accelerator"
QUEUE = "kueue.x-k8s.io/queue-name"
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def problems(documents: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the documents of a rendered file, one line each."""
    return [
        f"{document['kind']}: {problem}"
        for document in documents
        for problem in _document(document, documents)
    ]


def differences(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The keys of `given` that a model does not know, and the keys that it needs and `given` lacks.

    A model drops an unknown key, as the API does, and puts an empty text for a missing one.
    """
    if isinstance(given, dict):
        for key, value in given.items():
            if key in kept:
                yield from differences(value, kept[key], f"{path}.{key}")
            else:
                yield f"the API has no key {path}.{key}"
        yield from (f"{path}.{key} is missing" for key in kept if key not in given and kept[key] == "")
    elif isinstance(given, list):
        for i, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from differences(value, other, f"{path}[{i}]")


def fits(machine: str, topology: str) -> bool:
    """Whether slices of this topology are made of this machine type."""
    return any(
        machine in machines and _exists(topology, *machines[machine][1:]) for machines in TPUS.values()
    )


def _document(document: dict[str, Any], documents: list[dict[str, Any]]) -> Iterator[str]:
    try:
        kept = MODELS[document["kind"]].from_dict(document)
    except ValidationError as error:
        for detail in error.errors():
            yield f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        return
    except ValueError as error:  # of a quantity, such as limits
        yield str(error).splitlines()[0]
        return
    assert kept is not None
    if found := list(differences(document, kept.to_dict())):
        yield from found
        return
    spec = document["spec"]
    match document["kind"]:
        case "JobSet":
            if QUEUE not in document["metadata"].get("labels", {}):
                yield f"the label {QUEUE} is missing"
            yield from _jobset(spec)
            for job in spec["replicatedJobs"]:
                yield from _placed(document, job)
        case "TrainingRuntime":
            yield from _jobset(spec["template"]["spec"])
        case "TrainJob":
            runtimes = {d["metadata"]["name"]: d for d in documents if d["kind"] == "TrainingRuntime"}
            if (name := spec["runtimeRef"]["name"]) not in runtimes:
                yield f"there is no runtime {name}"
            else:
                yield from _trainer(spec["trainer"], runtimes[name]["spec"]["template"]["spec"])


def _jobset(spec: dict[str, Any]) -> Iterator[str]:
    """The restarts of a JobSet, and its jobs."""
    policy = spec["failurePolicy"]
    if policy["restartStrategy"] not in STRATEGIES:
        yield f"there is no restartStrategy {policy['restartStrategy']}"
    elif policy["restartStrategy"] != "BlockingRecreate":
        yield "restartStrategy is not BlockingRecreate: old and new pods would share the workdir"
    if policy["maxRestarts"] < 1:
        yield "maxRestarts is below 1"
    for rule in policy["rules"]:
        if rule["action"] not in ACTIONS:
            yield f"there is no action {rule['action']}"
    first = policy["rules"][0]
    if (first["action"], first.get("onJobFailureReasons")) != ("FailJobSet", ["PodFailurePolicy"]):
        yield "the first rule is not FailJobSet on PodFailurePolicy"
    for job in spec["replicatedJobs"]:
        yield from _job(job["template"]["spec"])


def _job(job: dict[str, Any]) -> Iterator[str]:
    """What the API of batch/v1 asks of a job, and which exit codes fail it for good."""
    try:
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job}
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"a job is not valid: {str(error).splitlines()[0]}"
    pod = job["template"]["spec"]
    if pod.get("restartPolicy") != "Never":
        yield "restartPolicy is not Never, which podFailurePolicy needs"
    if job.get("backoffLimit") != 0:
        yield "backoffLimit is not 0: a pod would restart alone"
    if pod.get("terminationGracePeriodSeconds", 30) < 120:
        yield "terminationGracePeriodSeconds is below 120"
    codes = {
        rule["onExitCodes"]["containerName"]: (rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"])
        for rule in job["podFailurePolicy"]["rules"]
        if rule["action"] == "FailJob"
    }
    names = {container["name"] for container in [*pod["containers"], *pod.get("initContainers", [])]}
    if unknown := set(codes) - names:
        yield f"podFailurePolicy names containers that do not exist: {', '.join(sorted(unknown))}"
    for container in pod["containers"]:
        if codes.get(container["name"]) != ("NotIn", RESTART):
            yield f"the exit codes of container {container['name']} that restart are not 42 and 128 to 255"


def _placed(document: dict[str, Any], job: dict[str, Any]) -> Iterator[str]:
    """The machines of a job of a JobSet, and what its program is told."""
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    hosts = spec["parallelism"]
    if spec["completions"] != hosts:
        yield f"completions is {spec['completions']} and parallelism {hosts}"
    yield from _program(container)
    environment = {entry["name"]: entry for entry in container["env"]}
    yield from _machines(pod["nodeSelector"], pod["tolerations"], container["resources"]["limits"], hosts)
    if TPU in pod["nodeSelector"]:
        if EXCLUSIVE not in document["metadata"].get("annotations", {}):
            yield f"the annotation {EXCLUSIVE} is missing"
        if not pod.get("hostNetwork") or pod.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield "hostNetwork and dnsPolicy ClusterFirstWithHostNet belong together on TPUs"
        if given := {"JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"} & set(environment):
            yield f"{', '.join(sorted(given))}: on TPUs GKE says who is who"
        return
    if job["replicas"] != 1:
        yield f"replicas is {job['replicas']}: nodes of GPUs that train together are pods of one job"
    if hosts > 1:
        name = document["metadata"]["name"]
        address = f"{name}-{job['name']}-0-0.{name}:"
        if environment.get("JAX_NUM_PROCESSES", {}).get("value") != str(hosts):
            yield f"JAX_NUM_PROCESSES is not {hosts}"
        if not environment.get("JAX_COORDINATOR_ADDRESS", {}).get("value", "").startswith(address):
            yield f"JAX_COORDINATOR_ADDRESS is not {address}PORT"
        source = environment.get("JAX_PROCESS_ID", {}).get("valueFrom", {}).get("fieldRef", {})
        if source.get("fieldPath") != INDEX:
            yield f"JAX_PROCESS_ID does not come from {INDEX}"


def _program(container: dict[str, Any]) -> Iterator[str]:
    """How the program is started."""
    if container["command"] != ["python", "-m", "drl_jax"]:
        yield f"the command is {container['command']}: it would not get SIGTERM"
    values = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    if not any(argument.startswith("--workdir=gs://") for argument in container["args"]):
        yield "--workdir is not on gs://"
    if not values.get("JAX_COMPILATION_CACHE_DIR", "").startswith("gs://"):
        yield "JAX_COMPILATION_CACHE_DIR is not on gs://"
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    if mounts and values.get("TFDS_DATA_DIR") not in mounts:
        yield "TFDS_DATA_DIR is not a volume"


def _machines(
    selector: dict[str, str], tolerations: list[dict[str, str]], limits: dict[str, int], hosts: int
) -> Iterator[str]:
    """Whether such machines exist, and their chips fill the slice."""
    resource = "google.com/tpu" if TPU in selector else "nvidia.com/gpu"
    if resource not in {toleration["key"] for toleration in tolerations}:
        yield f"the toleration of {resource} is missing"
    if set(limits) != {resource}:
        yield f"limits are {', '.join(limits)} and not {resource}"
        return
    count = limits[resource]
    if TPU not in selector:
        accelerator = selector[GPU]
        if accelerator not in GPUS:
            yield f"there is no {GPU} {accelerator}"
        elif count != GPUS[accelerator][1]:
            yield f"{resource} is {count}; a node of {accelerator} has {GPUS[accelerator][1]}"
        return
    accelerator, topology = selector[TPU], selector[TOPOLOGY]
    machines = [m for m in TPUS.get(accelerator, {}).values() if m[0] == count]
    if accelerator not in TPUS:
        yield f"there is no {TPU} {accelerator}"
    elif not machines:
        yield f"{resource} is {count}: no machine of {accelerator} has so many chips"
    elif not any(_exists(topology, *machine[1:]) for machine in machines):
        yield f"there is no topology {topology} of {accelerator} with {count} chips per host"
    if hosts * count != _chips(topology):
        yield f"{hosts} hosts of {count} chips are not the {_chips(topology)} chips of {topology}"


def _trainer(trainer: dict[str, Any], runtime: dict[str, Any]) -> Iterator[str]:
    """The program of a TrainJob, on the machines of its runtime."""
    (job,) = runtime["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    labels = job["template"]["metadata"]["labels"]
    if (job["name"], pod["containers"][0]["name"]) != ("node", "node"):
        yield "the job or its container in the runtime is not called node"
    if labels != {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}:
        yield "the job of the runtime is not labelled as the trainer"
    yield from _program(trainer)
    limits = trainer["resourcesPerNode"]["limits"]
    yield from _machines(pod["nodeSelector"], pod["tolerations"], limits, trainer["numNodes"])


def _chips(topology: str) -> int:
    return math.prod(map(int, topology.split("x")))


def _exists(topology: str, listed: list[str], cubes: int) -> bool:
    """Whether a topology is listed, or is made of at most so many cubes of 4x4x4 chips."""
    sides = [int(side) for side in topology.split("x")]
    whole = len(sides) == 3 and sides == sorted(sides) and all(side % 4 == 0 for side in sides)
    return topology in listed or (whole and _chips(topology) <= cubes * 64)


def machines_named(text: str) -> set[str]:
    """The machine types that a text names."""
    return set(re.findall(r"\b(?:ct\dl?p-hightpu|ct\de-standard|tpu7x-standard|a\dx?-\w+gpu)-\d[tg]\b", text))


def main(file: str) -> int:
    """Prints the problems of a rendered file; returns the exit code."""
    found = problems(list(yaml.safe_load_all(Path(file).read_text())))
    print("\n".join(found) or "no problem found")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
