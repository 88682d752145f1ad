"""What ``ibnorm launch`` prints is what a shell hands on; what cannot work is refused; variables are read as they are meant."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.cli.launch import _TARGETS
from ibnorm_megatron.cluster.agent import environment
from ibnorm_megatron.cluster.rendezvous import Rendezvous, answers, interface_of, is_own, route_to
from ibnorm_megatron.cluster.request import Request
from ibnorm_megatron.cluster.targets import TARGETS
from ibnorm_megatron.errors import UserError

from ..distributed import ROOT, command

AWKWARD = """log.wandb_project=it's "$HOME" `id` $(id) %h {a,b} * ; & |# \\"""
NORM = "model.norm={kind: ibnorm_tanh, lambda: 2}"


def _printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = main(["launch", "--print", *map(str, arguments)])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def _config(folder: Path, *more: str) -> list[str]:
    return ["configs/tiny_llama.yaml", f"run.dir={folder}/run", f"data.path={folder}/data", "--shared", str(folder), *more]


#: What stands in the place of the programs: it says its words, an empty one, and its variables.
_STAND_IN = """said() { printf '%s\\0' "$@" ""; env -0; }"""


def _read_by_a_shell(text: str, program: str) -> tuple[list[str], dict[str, str]]:
    """The words and variables that a program gets when somebody pastes the text into a shell."""
    script = f'{_STAND_IN}\n{program}() {{ said "$@"; }}\n{text}'
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=clean)
    words, _, rest = done.stdout.partition("\0\0")
    variables = dict(each.split("=", 1) for each in rest.split("\0") if each)
    return words.split("\0"), {name: value for name, value in variables.items() if name not in ("PATH", "PWD", "SHLVL", "_")}


@pytest.mark.parametrize(
    ("target", "more", "program", "variables"),
    [
        (
            "torchrun",
            ["--nodes", "2", "--gpus-per-node", "4", "--master", "a.b:1234"],
            "bash",
            {"NNODES": "2", "NPROC_PER_NODE": "4", "MASTER_ADDR": "a.b", "MASTER_PORT": "1234"},
        ),
        (
            "torchrun",
            ["--nodes", "1:2", "--gpus-per-node", "4", "--master", "a", "--max-restarts", "3"],
            "bash",
            {"NNODES": "1:2", "NPROC_PER_NODE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29500", "MAX_RESTARTS": "3"},
        ),
        ("torchrun", ["--processes-per-node", "2"], "bash", {"NPROC_PER_NODE": "2"}),
        ("deepspeed", ["--gpus-per-node", "2"], "bash", {"NPROC_PER_NODE": "2"}),
        ("slurm", ["--nodes", "2", "--processes-per-node", "2", "--time", "1-0"], "sbatch", {"NPROC_PER_NODE": "2"}),
        (
            "apptainer",
            ["--gpus-per-node", "1", "--image", "my image.sif"],
            "bash",
            {"NPROC_PER_NODE": "1", "IMAGE": "my image.sif"},
        ),
    ],
)
def test_a_shell_hands_on_what_was_given(
    target: str, more: list[str], program: str, variables: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    text = _printed(capsys, target, *_config(folder, NORM, AWKWARD, *more))
    words, found = _read_by_a_shell(text, program)
    assert words[-4:] == [f"run.dir={folder}/run", f"data.path={folder}/data", NORM, AWKWARD]
    assert words[-5] == "configs/tiny_llama.yaml"
    assert {name: found.get(name) for name in variables} == variables
    if target != "apptainer":
        assert found == variables


def test_deepspeed_is_given_its_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("n1 slots=2  # the first\n\nn2 slots=2\n")
    more = ["--nodes", "2", "--gpus-per-node", "2", "--hostfile", str(hostfile), "--ssh", "openssh"]
    _, found = _read_by_a_shell(_printed(capsys, "deepspeed", *_config(tmp_path, *more)), "bash")
    assert found == {"HOSTFILE": str(hostfile), "LAUNCHER": "openssh"}
    _, found = _read_by_a_shell(_printed(capsys, "torchrun", *_config(tmp_path, *more[:-2])), "bash")
    assert found["MASTER_ADDR"] == "n1"


def test_slurm_is_told_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--nodes", "2", "--gpus-per-node", "8", "--time", "12:00:00", "train.global_batch_size=16"]
    words, found = _read_by_a_shell(_printed(capsys, "slurm", *_config(tmp_path, *more)), "sbatch")
    assert words[:5] == ["--nodes=2", "--gpus-per-node=8", "--time=12:00:00", "--job-name=run", "launch/slurm.sbatch"]
    assert found == {}


def test_every_target_can_be_asked_for() -> None:
    assert tuple(TARGETS) == _TARGETS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("1:30", 90), ("12:00:00", 43_200), ("2-12", 216_000), ("1-01:30", 91_800), ("x", None), ("", None)],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int | None) -> None:
    assert Request("c", time=text).seconds() == seconds


def test_variables_make_a_torchrun_command() -> None:
    given = {
        "NNODES": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4000",
        "RDZV_ID": "a",
        "RDZV_CONF": "x=1",
    }
    own = Rendezvous.from_environment(given, processes=4)
    assert own.several and not own.serves
    words = own.torchrun("python", ["-m", "it"])
    assert words[:5] == ["python", "-m", "torch.distributed.run", "--nproc-per-node", "4"]
    assert words[5:9] == ["--max-restarts", "0", "--nnodes", "2"]
    assert words[9:] == [
        *["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:4000", "--rdzv-id", "a"],
        *["--rdzv-conf", "join_timeout=900,is_host=false,x=1", "-m", "it"],
    ]
    assert "--standalone" in Rendezvous.from_environment({}, processes=4).torchrun("python", [])


def test_an_operators_variables_stand_in() -> None:
    given = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "8",
        "PET_NODE_RANK": "0",
        "MASTER_ADDR": "m",
        "RANK": "0",
        "WORLD_SIZE": "16",
    }
    own = Rendezvous.from_environment(given, processes=1)
    assert (own.nodes, own.processes, own.node_rank, own.serves) == ((2, 2), 8, 0, True)
    left = environment(given, own)
    assert not {"RANK", "WORLD_SIZE", "PET_NNODES"} & set(left)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in left
    assert environment(given, Rendezvous(1, (1, 2), address="m", max_restarts=1))["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_all_that_is_wrong_with_variables_is_said_at_once() -> None:
    given = {
        "NNODES": "3:2",
        "NPROC_PER_NODE": "0",
        "NODE_RANK": "4",
        "MASTER_PORT": "70000",
        "MAX_RESTARTS": "-1",
        "RDZV_CONF": "x",
    }
    with pytest.raises(UserError) as refused:
        Rendezvous.from_environment(given, processes=1)
    assert {problem.where for problem in refused.value.problems} == {*given, "MASTER_ADDR"}


def test_this_host_knows_its_addresses() -> None:
    assert is_own("127.0.0.1") and is_own("localhost")
    assert not is_own("192.0.2.1") and not is_own("no.such.host.invalid")
    assert route_to("127.0.0.1") == "" == interface_of("192.0.2.1")
    assert interface_of("127.0.0.1") == "lo"
    assert not answers("127.0.0.1", 1)


@pytest.mark.parametrize("script", ["torchrun", "deepspeed"])
def test_scripts_say_what_they_are_and_refuse(script: str) -> None:
    path = ROOT / "launch" / f"{script}.sh"
    assert command("bash", "-n", path).returncode == 0
    shown = command("bash", path, "--help")
    assert shown.returncode == 0
    assert "CONFIG" in shown.stdout and "MASTER_PORT" in shown.stdout and "set -euo" not in shown.stdout
    nothing = command("bash", path)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error: the config file is missing")


def test_lines_in_the_page_print_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("ibnorm launch")]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line.replace("/shared", str(tmp_path)).partition(" > ")[0])
        assert main(words[1:]) == 0
        assert capsys.readouterr().out


def test_variables_in_the_page_and_in_scripts_are_read() -> None:
    """Every variable that a script's help names is one that the agent or that script reads."""
    agent = "".join((ROOT / "ibnorm_megatron" / "cluster" / f"{name}.py").read_text() for name in ("agent", "rendezvous"))
    for script in ("torchrun", "deepspeed"):
        text = (ROOT / "launch" / f"{script}.sh").read_text()
        said = re.findall(r"^#   ([A-Z_]+) ", text, flags=re.MULTILINE)
        assert len(said) > 5
        for name in said:
            assert f'"{name}"' in agent or f"${{{name}:-" in text or f'"${name}"' in text, name
