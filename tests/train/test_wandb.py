"""Weights & Biases: it gets what metrics.jsonl has, through stops and kills, offline and online, and stops no run."""

from __future__ import annotations

import json
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ibnorm_megatron.config import load_config
from ibnorm_megatron.train.callbacks.wandb_records import flat
from ibnorm_megatron.train.config import LogConfig
from ibnorm_megatron.train.run_folder import RunFolder
from ibnorm_megatron.train.wandb_mode import wandb_mode

from ..conftest import VOCABULARY
from ..distributed import BIN, ROOT, command, environment
from ..wandb_server import KEY, WandbServer, wandb_server
from ..workers.forked import Forked

_RUN = ["train.steps=40", "checkpoint.interval=4", "evaluate.interval=6", "log.telemetry=6", "evaluate.batches=1"]


def _arguments(data: Path, run: Path, *overrides: str) -> list[str]:
    own = [f"data.path={data}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}"]
    return ["configs/tiny_llama.yaml", *own, *_RUN, *overrides]


def _environ(home: Path, **more: str) -> dict[str, str]:
    """No key but those given, and no file that holds one."""
    clean = {name: value for name, value in environment().items() if not name.startswith("WANDB") and name != "NETRC"}
    return {**clean, "HOME": str(home), **more}


def _train(
    folder: Path, arguments: list[str], plant: str = "", until: Callable[[], bool] | None = None, how: int = 0, **environ: str
) -> tuple[int | None, str]:
    """Train as a process of its own; with ``until``, signal it when that is so. Its exit code, and what it said."""
    process = Forked("ibnorm_megatron.train", arguments, folder / "logs", _environ(folder, **environ), plant)
    try:
        if until is not None:
            deadline = time.monotonic() + 120
            while not until() and process.alive and time.monotonic() < deadline:
                time.sleep(0.02)
            process.signal(how)
        return process.wait(120), process.out + process.err
    finally:
        process.kill()


def _steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return max((json.loads(line)["step"] for line in path.read_text().splitlines()), default=0) if path.is_file() else 0


def _rows(run: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """What the run's own files say, as rows of wandb: step and room by what was recorded."""
    rows = {}
    for record in RunFolder(run).read_metrics():
        rows[record["step"], "validation" if "val_loss" in record else "train"] = record
    for record in RunFolder(run).read_telemetry():
        rows[record["step"], "telemetry"] = flat(record)
    return {
        (step, room): {f"{room}/{name}": value for name, value in record.items() if name != "step"}
        for (step, room), record in rows.items()
    }


def _as_rows(history: list[Mapping[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """History rows in the same form; the last of those that were recorded twice."""
    rows = {}
    for row in history:
        own = {name: value for name, value in row.items() if "/" in name}
        (room,) = {name.partition("/")[0] for name in own}
        rows[row["step"], room] = own
    return rows


def _offline_records(path: Path) -> Iterator[Any]:
    """wandb's own messages from its file: a LevelDB log of blocks of 32 KiB, whose chunks have a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""  # behind the file's own header
    while at + 7 <= len(data):
        if (left := -at % 32_768) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def _offline_history(run: Path) -> list[dict[str, Any]]:
    """Every row of all offline records of a run, in the order of their starts."""
    rows = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for record in _offline_records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _nothing_hidden(places: list[Path], texts: list[str], secrets: list[str]) -> None:
    for secret in secrets:
        for text in texts:
            assert secret not in text
        for path in (path for place in places for path in place.rglob("*") if path.is_file()):
            assert secret.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_an_offline_record_goes_on_after_a_kill_and_can_be_sent(tmp_path: Path, prepared: Path) -> None:
    run, token = tmp_path / "run", "hf_planted0123456789"
    given = _arguments(prepared, run, "log.wandb=auto", "log.wandb_tags=[first, try]")

    def saved_and_on() -> bool:
        return (run / "checkpoints" / "latest").exists() and _steps(run) >= 6

    code, said = _train(tmp_path, given, until=saved_and_on, how=signal.SIGKILL, HF_TOKEN=token)
    assert code == -signal.SIGKILL, said
    identity = json.loads((run / "wandb.json").read_text())["id"]
    begun = {path.name for path in (run / "wandb").glob("offline-run-*")}  # none, where wandb took longer to start
    code, more = _train(tmp_path, given, HF_TOKEN=token)
    assert code == 0, more
    assert f"wandb: offline, run {identity} of project ibnorm_megatron" in more
    assert RunFolder(run).read_card()["resumed"][0]["step"] >= 4
    assert {path.name.removesuffix("-1") for path in (run / "wandb").glob("superseded/*")} == begun
    assert _as_rows(_offline_history(run)) == _rows(run)

    with wandb_server() as server:  # wandb reads its file itself
        sent = [BIN / "wandb", "sync", "--yes", run / "wandb"]
        done = command("env", f"WANDB_BASE_URL={server.url}", f"WANDB_API_KEY={KEY}", f"HOME={tmp_path}", *sent)
        assert done.returncode == 0, done.stderr
        (arrived,) = server.runs.values()
    assert arrived.name == identity
    assert _as_rows(arrived.history()) == _rows(run)
    assert arrived.tags == ["first", "try"]
    _check_config(arrived.config, run)
    summary = RunFolder(run).read_summary()
    assert {name: arrived.summary()[name] for name in summary} == summary
    _nothing_hidden([run], [said, more, done.stdout, done.stderr], [token, KEY])


def _without_empty(values: Any) -> Any:
    """wandb keeps no empty mapping in a mapping."""
    if not isinstance(values, dict):
        return values
    return {name: _without_empty(value) for name, value in values.items() if value != {}}


def _check_config(config: Mapping[str, Any], run: Path) -> None:
    sent = {name: entry["value"] for name, entry in config.items() if name != "_wandb"}
    card = sent.pop("run_card")
    assert sent == _without_empty(yaml.safe_load((run / "config.yaml").read_text()))
    assert card["digests"] == RunFolder(run).read_card()["digests"]
    assert "args" not in json.dumps(config["_wandb"]), "the command line, and what may be in it"


@pytest.mark.slow
def test_an_online_record_goes_on_after_a_stop_and_has_artifacts(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    given = _arguments(prepared, run, "log.wandb=auto", "log.wandb_artifacts=checkpoint")
    with wandb_server() as server:
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        code, said = _train(tmp_path, given, until=lambda: _steps(run) >= 5, how=signal.SIGTERM, **environ)
        assert code == 0, said
        stopped_at = _steps(run)
        assert stopped_at < 40
        code, more = _train(tmp_path, given, **environ)
        assert code == 0, more
        (arrived,) = server.runs.values()
        assert "wandb: online" in said and "warning" not in said + more
    assert _as_rows(arrived.history()) == _rows(run)
    assert arrived.exit_codes == [0, 0]
    _check_config(arrived.config, run)
    assert [row["step"] for row in arrived.history() if "train/loss" in row] == list(range(1, 41)), "nothing twice"
    _check_artifacts(server, run, arrived.name)
    _nothing_hidden([run], [said, more, *(body.decode(errors="replace") for body in server.everything)], [KEY])


def _check_artifacts(server: WandbServer, run: Path, identity: str) -> None:
    assert server.committed.count(f"checkpoint-{identity}") == 1, "of a run that is complete only"
    for name, folder in (("records", run), ("checkpoint", run / "checkpoints" / "step-00000040")):
        files = server.artifacts[f"{name}-{identity}"]
        names = set(json.loads(files.pop("wandb_manifest.json"))["contents"])
        assert names == set(files)
        assert {file: (folder / file).read_bytes() for file in files} == files
        assert names >= ({"metrics.jsonl", "run_card.json"} if name == "records" else {"checkpoint.json"})


@pytest.mark.slow
def test_a_server_that_never_answers_costs_a_warning(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    with wandb_server() as server:
        server.hangs.set()
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        code, said = _train(
            tmp_path, _arguments(prepared, run, "log.wandb=online"), plant="tests.workers.plants:impatient_wandb", **environ
        )
    assert code == 0, said
    assert said.count("warning: wandb: ") == 1, said
    assert "wandb sync" in said
    assert _as_rows(_offline_history(run)) == _rows(run), "nothing is lost"
    _nothing_hidden([run], [said], [KEY])


@pytest.mark.slow
def test_a_server_that_falls_silent_holds_no_run_up(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    with wandb_server() as server:
        environ = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}

        def silence() -> bool:
            if server.runs and _steps(run) >= 2:
                server.hangs.set()
            return False

        started = time.monotonic()
        process = Forked(
            "ibnorm_megatron.train",
            _arguments(prepared, run, "log.wandb=online"),
            tmp_path / "logs",
            _environ(tmp_path, **environ),
            "tests.workers.plants:impatient_wandb",
        )
        try:
            while process.alive and time.monotonic() < started + 120:
                silence()
                time.sleep(0.02)
            code, said = process.wait(0), process.out + process.err
        finally:
            process.kill()
    assert code == 0, said
    assert said.count("warning: wandb: ") == 1, said
    summary = RunFolder(run).read_summary()
    assert summary["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["wandb_that_raises", "wandb_that_does_not_start"])
def test_wandb_that_fails_ends_no_run(tmp_path: Path, prepared: Path, plant: str) -> None:
    run = tmp_path / "run"
    code, said = _train(tmp_path, _arguments(prepared, run, "log.wandb=offline"), plant=f"tests.workers.plants:{plant}")
    assert code == 0, said
    assert said.count("warning: wandb: ") == 1, said
    assert RunFolder(run).read_summary()["status"] == "complete"


def test_it_is_auto_but_for_first_tries() -> None:
    said = {path.stem: load_config(path).log.wandb for path in (ROOT / "configs").glob("*.yaml")}
    assert {name for name, wandb in said.items() if wandb == "off"} == {"tiny_llama", "tiny_gpt2", "quickstart"}
    assert set(said.values()) == {"auto", "off"}


@pytest.mark.parametrize(
    ("wandb", "environ", "mode"),
    [
        ("off", {"WANDB_API_KEY": KEY}, "off"),
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "off"),
        ("auto", {"NETRC": "{here}/netrc"}, "online"),
        ("auto", {"NETRC": "{here}/netrc", "WANDB_BASE_URL": "https://example.org"}, "offline"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
    ],
)
def test_auto_is_online_where_there_is_a_key_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: str, environ: dict[str, str], mode: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    given = {name: value.format(here=tmp_path) for name, value in environ.items()}
    assert wandb_mode(LogConfig.model_validate({"wandb": wandb}), given) == mode
