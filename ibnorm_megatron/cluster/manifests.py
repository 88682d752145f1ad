"""Kubernetes manifests that start a run: a plain indexed Job, and the jobs of Kubeflow's two operators.

The config travels in a ConfigMap, so that an image fits all runs; overrides are arguments, each a string of its own, which no
shell reads. Ranks are started by :mod:`ibnorm_megatron.cluster.agent`, as everywhere.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import yaml

from ..config import Config
from .rendezvous import DEFAULT_PORT
from .request import Request

Manifest = dict[str, Any]

_CONFIG = "/etc/ibnorm"
#: How often a job's pods are replaced, in all, where nobody says.
DEFAULT_RESTARTS = 3
#: What a launcher's ranks end with when they were told to stop: pods that end with 0 would count as done.
STOPPED = 143
#: What a launcher ends with when the user has to mend something: nothing that another try would help.
REFUSED = 2
#: Kubeflow's operator starts what it finds in containers of this name.
_PYTORCH_JOB, _TRAIN_JOB = "pytorch", "node"


def indexed_job(request: Request, config: Config) -> list[Manifest]:
    """A Job of Kubernetes itself, whose pods are numbered, and the Service by which they find the first."""
    name, port = request.name, DEFAULT_PORT
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    environment = [
        {"name": "NNODES", "value": str(request.most)},
        {"name": "NODE_RANK", "valueFrom": index},
        {"name": "NPROC_PER_NODE", "value": str(request.per_node)},
        {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
        {"name": "MASTER_PORT", "value": str(port)},
    ]
    labels = {"app.kubernetes.io/name": "ibnorm", "app.kubernetes.io/instance": name}
    service = _object("v1", "Service", request)
    service["spec"] = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,  # pods meet before any of them is ready
        "selector": labels,
        "ports": [{"name": "rendezvous", "port": port}],
    }
    pod = _pod(request, config, "train", environment)
    pod["spec"]["subdomain"] = name  # with the index in a pod's host name, each has a name of its own
    pod["metadata"] = {"labels": labels}
    job = _object("batch/v1", "Job", request)
    job["spec"] = {
        "completionMode": "Indexed",
        "completions": request.most,
        "parallelism": request.most,
        "backoffLimit": _restarts(request) * request.most,  # where one pod ends, the others do too
        "podReplacementPolicy": "Failed",  # two pods of one number would both claim to be it
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [REFUSED]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        **_deadline(request),
        "template": pod,
    }
    return [_config_map(request), service, job]


def pytorch_job(request: Request, config: Config) -> list[Manifest]:
    """A PyTorchJob of Kubeflow's training operator, version 1."""
    replicas = {"Master": 1} | ({"Worker": request.most - 1} if request.several else {})
    pods = {
        kind: {
            "replicas": count,
            "restartPolicy": "OnFailure",
            "template": _pod(request, config, _PYTORCH_JOB, [], policy=None),
        }
        for kind, count in replicas.items()
    }
    job = _object("kubeflow.org/v1", "PyTorchJob", request)
    job["spec"] = {
        "nprocPerNode": str(request.per_node),
        "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": _restarts(request) * request.most, **_deadline(request)},
        "pytorchReplicaSpecs": pods,
    }
    return [_config_map(request), job]


def train_job(request: Request, config: Config) -> list[Manifest]:
    """A TrainJob of Kubeflow's trainer, version 2, with a runtime of its own that mounts the shared folder."""
    pod = _pod(request, config, _TRAIN_JOB, [])
    (container,) = pod["spec"]["containers"]
    asked = {key: container.pop(key) for key in ("command", "args", "env", "resources") if key in container}
    runtime = _object("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", request)
    runtime["metadata"]["labels"] = {"trainer.kubeflow.org/framework": "torch"}
    runtime["spec"] = {
        "mlPolicy": {"numNodes": request.most, "torch": {}},
        "template": {
            "spec": {
                "failurePolicy": {"maxRestarts": _restarts(request)},
                "replicatedJobs": [
                    {
                        "name": _TRAIN_JOB,
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {"backoffLimit": 0, **_deadline(request), "template": pod},
                        },
                    }
                ],
            }
        },
    }
    job = _object("trainer.kubeflow.org/v1alpha1", "TrainJob", request)
    trainer = {"image": request.image, "numNodes": request.most, "numProcPerNode": request.per_node}
    trainer |= {key: asked[key] for key in ("command", "args", "env")}
    if "resources" in asked:
        trainer["resourcesPerNode"] = asked["resources"]
    job["spec"] = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": request.name},
        "trainer": trainer,
    }
    return [_config_map(request), runtime, job]


def to_yaml(manifests: list[Manifest]) -> str:
    """The manifests as one stream for ``kubectl apply -f``."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and everything said twice written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _object(version: str, kind: str, request: Request) -> Manifest:
    namespace = {"namespace": request.namespace} if request.namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": request.name, **namespace}}


def _config_map(request: Request) -> Manifest:
    return {**_object("v1", "ConfigMap", request), "data": {"config.yaml": request.text}}


def _restarts(request: Request) -> int:
    return request.max_restarts or DEFAULT_RESTARTS


def _deadline(request: Request) -> Manifest:
    seconds = request.seconds()
    return {"activeDeadlineSeconds": seconds} if seconds else {}


def _pod(
    request: Request, config: Config, container: str, environment: list[Manifest], policy: str | None = "Never"
) -> Manifest:
    """A pod's template: one container with the launcher, the shared folder, the config, and room for ranks to exchange data."""
    variables = [*environment, {"name": "IBNORM_STOPPED_EXIT_CODE", "value": str(STOPPED)}]
    if config.log.wandb == "online":  # the key is in no manifest and in no run card
        key = {"secretKeyRef": {"name": "wandb", "key": "api-key"}}
        variables.append({"name": "WANDB_API_KEY", "valueFrom": key})
    resources = {"resources": {"limits": {"nvidia.com/gpu": request.per_node}}} if request.gpus else {}
    mounts = {"shared": request.shared, "config": _CONFIG, "memory": "/dev/shm"}  # noqa: S108 (a mount, not a file of ours)
    return {
        "spec": {
            **({"restartPolicy": policy} if policy else {}),
            # a stop lets a step finish and saves, in run.stop_within
            "terminationGracePeriodSeconds": ceil(config.run.stop_within) + 30,
            "containers": [
                {
                    "name": container,
                    "image": request.image,
                    "command": ["python", "-m", "ibnorm_megatron.cluster.agent"],
                    "args": [_literal(word) for word in (f"{_CONFIG}/config.yaml", *request.overrides)],
                    "env": variables,
                    **resources,
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                }
            ],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": request.claim}},
                {"name": "config", "configMap": {"name": request.name}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
            ],
        }
    }


def _literal(word: str) -> str:
    """A word as Kubernetes hands it on: it puts variables in the place of ``$(NAME)``, unless the dollar is doubled."""
    return word.replace("$(", "$$(")
