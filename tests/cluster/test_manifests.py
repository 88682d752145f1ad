"""Manifests are what Kubernetes and Kubeflow's operators take, by their schemas; words reach the ranks as they were given."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ibnorm_megatron.cli import main

from ..distributed import ROOT
from .schemas import faults

TARGETS = ("k8s-job", "k8s-pytorchjob", "k8s-trainjob")
PLACE = ["run.dir=/shared/runs/llama-7b", "data.path=/shared/data/mine", "--shared", "/shared", "--claim", "training"]
IMAGE = ["--image", "registry.example/ibnorm:0.1"]
AWKWARD = """log.wandb_project=it's "$HOME" $(NODE_RANK) {a,b} &x |# -"""


def rendered(capsys: pytest.CaptureFixture[str], target: str, *arguments: str) -> list[dict[str, Any]]:
    """What the command prints, read again."""
    code = main(["launch", "--print", target, *arguments])
    told = capsys.readouterr()
    assert code == 0, told.err
    return list(yaml.safe_load_all(told.out))


def _llama(*more: str) -> list[str]:
    return ["configs/llama_7b.yaml", *PLACE, *IMAGE, "--nodes", "2", "--gpus-per-node", "8", *more]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--nodes", "1", "--namespace", "team", "--time", "2-12:00:00", "--max-restarts", "5"],
        ["parallel.tensor=2", "log.wandb=online", "--name", "x"],
    ],
)
def test_a_cluster_takes_what_is_printed(target: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    manifests = rendered(capsys, target, *_llama(*more))
    assert len(manifests) > 1
    for manifest in manifests:
        assert faults(manifest) == [], manifest["kind"]


def test_pods_on_cpus_ask_for_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["configs/tiny_llama.yaml", *PLACE, *IMAGE, "--processes-per-node", "2"]
    for target in TARGETS:
        for manifest in rendered(capsys, target, *arguments):
            assert "nvidia" not in yaml.safe_dump(manifest)
            assert faults(manifest) == []


@pytest.mark.parametrize("target", TARGETS)
def test_words_are_arguments_of_their_own(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    norm = "model.norm={kind: ibnorm_tanh, lambda: 2}"
    manifests = rendered(capsys, target, *_llama(norm, AWKWARD))
    containers = [each for manifest in manifests for each in _found(manifest, "args")]
    assert containers
    for arguments in containers:
        # as Kubernetes documents it: $$ before a bracket is a dollar, and $(NAME) a variable
        as_handed_on = [argument.replace("$$(", "$(") for argument in arguments]
        assert as_handed_on[0] == "/etc/ibnorm/config.yaml"
        assert {norm, AWKWARD} < set(as_handed_on)
        assert not any(re.search(r"(?<!\$)\$\(", argument) for argument in arguments)
    (config,) = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert config["data"]["config.yaml"] == (ROOT / "configs" / "llama_7b.yaml").read_text()


def test_no_key_is_in_a_manifest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-key-of-nobody")
    for target in TARGETS:
        text = yaml.safe_dump_all(rendered(capsys, target, *_llama("log.wandb=online")))
        assert "a-key-of-nobody" not in text
        assert "secretKeyRef" in text


#: What is done to a manifest of each kind, each of which a cluster would refuse.
PLANTED: dict[str, list[Callable[[dict[str, Any]], Any]]] = {
    "Service": [lambda m: m["spec"].update(clusterIp="None"), lambda m: m["spec"]["ports"][0].update(port="29500")],
    "Job": [
        lambda m: m["spec"].update(completions="2"),
        lambda m: m["spec"].update(completionmode="Indexed"),
        lambda m: m["spec"]["template"]["spec"]["containers"][0].update(arg=["x"]),
        lambda m: m["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0].pop("mountPath"),
        lambda m: m["metadata"].update(name="Run_1"),
    ],
    "PyTorchJob": [
        lambda m: m["spec"].update(nprocPerNode=8),
        lambda m: m["spec"].pop("pytorchReplicaSpecs"),
        lambda m: m["spec"]["runPolicy"].update(backofflimit=1),
        lambda m: m["spec"]["pytorchReplicaSpecs"].update(Chief={}),
        lambda m: m["spec"]["pytorchReplicaSpecs"]["Master"].update(restartPolicy="Sometimes"),
        lambda m: m["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0].update(name="train"),
        lambda m: m["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"].update(volume=[]),
    ],
    "TrainJob": [
        lambda m: m["spec"]["trainer"].update(numNodes="2"),
        lambda m: m["spec"]["trainer"].update(numProcsPerNode=8),
        lambda m: m["spec"]["runtimeRef"].pop("name"),
        lambda m: m["spec"]["trainer"]["resourcesPerNode"].update(limit={}),
        lambda m: m["spec"].pop("runtimeRef"),
    ],
    "TrainingRuntime": [
        lambda m: m["spec"]["mlPolicy"].update(numnodes=2),
        lambda m: _found(m, "containers")[0][0].update(volumemounts=[]),
        lambda m: m["spec"]["template"]["spec"]["replicatedJobs"][0].pop("name"),
    ],
}


def test_what_a_cluster_refuses_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    whole = {manifest["kind"]: manifest for target in TARGETS for manifest in rendered(capsys, target, *_llama())}
    for kind, plants in PLANTED.items():
        for number, plant in enumerate(plants):
            broken = copy.deepcopy(whole[kind])
            plant(broken)
            assert faults(broken), f"{kind}, plant {number}"
        assert faults(whole[kind]) == []


def _examples() -> Iterator[Path]:
    yield from sorted((ROOT / "launch" / "k8s").glob("*.yaml"))


@pytest.mark.parametrize("path", _examples(), ids=lambda path: path.stem)
def test_examples_are_what_their_first_line_prints(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, command, rest = path.read_text().split("\n", 2)
    assert said.startswith("# ")
    words = shlex.split(command.removeprefix("# "))
    assert words[:2] == ["ibnorm", "launch"]
    assert main(words[1:]) == 0
    assert capsys.readouterr().out == rest


def test_there_is_an_example_of_each_kind() -> None:
    assert [path.stem for path in _examples()] == ["job", "pytorchjob", "trainjob"]


def _found(part: Any, key: str) -> list[Any]:
    """All values of a key, wherever it is."""
    if isinstance(part, dict):
        own = [part[key]] if key in part else []
        return own + [each for value in part.values() for each in _found(value, key)]
    return [each for value in part for each in _found(value, key)] if isinstance(part, list) else []
