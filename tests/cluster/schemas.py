"""Is a manifest what a cluster would take? Checked without one, and unknown keys are refused."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

#: The Kubernetes whose schemas are asked: podFailurePolicy and podReplacementPolicy are stable since 1.31 and 1.34.
VERSION = "1.34"


def faults(manifest: dict[str, Any]) -> list[str]:
    """What a cluster would refuse, as ``place: why``; empty if nothing."""
    kind, group = manifest.get("kind"), str(manifest.get("apiVersion")).partition("/")[0]
    if group == "kubeflow.org":
        found = [*_checked(manifest, _pytorch_job()), *_pods_of_pytorch_job(manifest)]
    elif group == "trainer.kubeflow.org":
        found = _checked(manifest, _trainer(str(kind)))
    else:
        found = _core(manifest)
    return [*found, *_name(manifest)]


def _core(manifest: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _checked(manifest: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(manifest)]


def _name(manifest: dict[str, Any]) -> list[str]:
    """Schemas take any text for a name; the API server takes labels of DNS."""
    name = manifest["metadata"].get("name", "")
    return [] if re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) else [f"metadata.name: {name!r}"]


@cache
def _pytorch_job() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "pytorchjob.yaml").read_text())


def _pods_of_pytorch_job(manifest: dict[str, Any]) -> list[str]:
    """Its pods, as Kubernetes itself checks them where they stand alone, in a PodTemplate."""
    found = []
    for kind, replicas in manifest.get("spec", {}).get("pytorchReplicaSpecs", {}).items():
        pod = replicas.get("template", {"spec": {"containers": []}})  # that it is missing is found by the other schema
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
        found += [f"{kind}.{fault}" for fault in _core(template)]
        names = [container.get("name") for container in pod["spec"]["containers"]]
        found += [] if "pytorch" in names else [f"{kind}: the operator wants a container named pytorch"]
    return found


@cache
def _trainer(kind: str) -> dict[str, Any]:
    """The schema of one of the trainer's kinds, from the models that its makers publish, with unknown keys refused."""
    from kubeflow_trainer_api import models

    schema = getattr(models, f"TrainerV1alpha1{kind}").model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part["additionalProperties"] = False
    _loosen(schema)
    return schema


def _loosen(part: Any) -> None:
    """A quantity or a port is text or a number in a manifest; the models wrap it."""
    if isinstance(part, dict):
        for name, definition in part.get("$defs", {}).items():
            if name.endswith(("Quantity", "IntOrString")):
                definition.clear()
                definition["type"] = ["string", "number"]
        for each in part.values():
            _loosen(each)
    elif isinstance(part, list):
        for each in part:
            _loosen(each)
