"""What ``ibnorm launch --print`` can print, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import Config
from . import commands, manifests
from .request import Needs, Request


@dataclass(frozen=True)
class Target:
    """One way to start a run.

    Attributes:
        what: it is, in a few words.
        needs: the options that it takes.
        render: the text to print.
    """

    what: str
    needs: Needs
    render: Callable[[Request, Config], str]


def _command(render: Callable[[Request], str]) -> Callable[[Request, Config], str]:
    return lambda request, config: render(request)


def _manifest(make: Callable[[Request, Config], list[manifests.Manifest]]) -> Callable[[Request, Config], str]:
    return lambda request, config: manifests.to_yaml(make(request, config))


def _targets() -> dict[str, Target]:
    pods = frozenset({"image", "claim", "namespace", "name", "time", "max_restarts"})
    meeting = frozenset({"master", "hostfile", "max_restarts"})
    in_pods = {"takes": pods, "wants": ("image", "claim"), "contained": True}
    return {
        "torchrun": Target(
            "a line for each host: launch/torchrun.sh",
            Needs("torchrun", meeting, several=("master",), elastic=True),
            _command(commands.torchrun),
        ),
        "deepspeed": Target(
            "a line for one host: launch/deepspeed.sh, which reaches the others by ssh",
            Needs("deepspeed", frozenset({"hostfile", "ssh", "master"}), several=("hostfile",)),
            _command(commands.deepspeed),
        ),
        "slurm": Target(
            "a line with sbatch: launch/slurm.sbatch",
            Needs("slurm", frozenset({"time", "name", "image"})),
            _command(commands.slurm),
        ),
        "apptainer": Target(
            "a line for each host: launch/apptainer.sh",
            Needs("apptainer", meeting | {"image"}, wants=("image",), several=("master",), elastic=True),
            _command(commands.apptainer),
        ),
        "k8s-job": Target(
            "manifests: an indexed Job and a Service",
            Needs("k8s-job", **in_pods),
            _manifest(manifests.indexed_job),
        ),
        "k8s-pytorchjob": Target(
            "manifests: a PyTorchJob of Kubeflow's training operator (v1)",
            Needs("k8s-pytorchjob", **in_pods),
            _manifest(manifests.pytorch_job),
        ),
        "k8s-trainjob": Target(
            "manifests: a TrainJob of Kubeflow's trainer (v2), with its runtime",
            Needs("k8s-trainjob", **in_pods),
            _manifest(manifests.train_job),
        ),
    }


TARGETS = _targets()
