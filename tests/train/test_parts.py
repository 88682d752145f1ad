"""The parts of a run that need no processes: schedules, the run folder, the DeepSpeed config."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ibnorm_megatron.config import load_config
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.engine import check_overrides, deepspeed_config
from ibnorm_megatron.train import run_folder
from ibnorm_megatron.train.optimizer import build_optimizer
from ibnorm_megatron.train.run_folder import RunFolder, differences
from ibnorm_megatron.train.schedule import learning_rate

from ..distributed import ROOT


def _train(*overrides: str):
    return load_config(ROOT / "configs" / "tiny_llama.yaml", ["train.steps=100", "train.lr=1.0", *overrides]).train


def test_cosine_schedule() -> None:
    train = _train("train.warmup_fraction=0.2", "train.min_lr_ratio=0.1")
    rates = [learning_rate(train, step) for step in range(1, 101)]
    assert rates[:20] == pytest.approx([step / 20 for step in range(1, 21)])
    assert rates[59] == pytest.approx(0.55)  # half way down
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[19:]))


def test_wsd_schedule() -> None:
    train = _train("train.schedule=wsd", "train.warmup_fraction=0.1", "train.decay_fraction=0.2", "train.min_lr_ratio=0.0")
    rates = [learning_rate(train, step) for step in range(1, 101)]
    assert rates[9:80] == [1.0] * 71
    assert rates[80:] == pytest.approx([left / 20 for left in range(19, -1, -1)])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_of_the_shortest_runs(schedule: str, steps: int) -> None:
    train = _train(f"train.schedule={schedule}", f"train.steps={steps}")
    assert all(0 < learning_rate(train, step) <= 1 for step in range(1, steps + 1))


def test_weight_decay_is_on_matrices_only() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    decayed, kept = build_optimizer(module, _train()).param_groups
    assert [p.dim() for p in decayed["params"]] == [2]
    assert [p.dim() for p in kept["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_deepspeed_config_follows_ours_and_any_key_can_be_overridden() -> None:
    layout = Layout(
        zero_stage=2, offload_optimizer=True, deepspeed={"zero_optimization": {"overlap_comm": True}, "dump_state": True}
    )
    config = deepspeed_config(layout, "bf16", micro_batch_size=3, micro_batches=2, grad_clip=0.5)
    wanted = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True}
    assert {name: config["zero_optimization"][name] for name in wanted} == wanted
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (3, 2)
    assert (config["bf16"], config["gradient_clipping"], config["dump_state"]) == ({"enabled": True}, 0.5, True)
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["communication_data_type"] == "fp32"
    assert "bf16" not in deepspeed_config(Layout(), "fp32", micro_batch_size=1, micro_batches=1, grad_clip=1.0)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"zero_optimization": {"overlap_com": True}}, "overlap_com: Extra inputs are not permitted"),
        ({"zero_optimization": {"reduce_bucket_size": "big"}}, "reduce_bucket_size: Input should be a valid"),
    ],
)
def test_what_deepspeed_refuses_is_said_before_anything_starts(block: dict, says: str) -> None:
    layout = Layout(deepspeed=block)
    config = deepspeed_config(layout, "fp32", micro_batch_size=1, micro_batches=1, grad_clip=1.0)
    with pytest.raises(UserError, match=f"parallel.deepspeed is .*{says}"):
        check_overrides(layout, config)


def _begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    with folder.claim("a: 1\n"):
        folder.begin({"git": "abc", "started": "1"}, 0)
    return folder


def test_metrics_of_steps_run_again_are_kept_aside(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    for step in (1, 2, 3):
        folder.append_metrics({"step": step})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut off by a kill
    folder.begin({"git": "def", "started": "2"}, 2)
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]
    assert (folder.path / "metrics.superseded-1.jsonl").read_text() == '{"step": 3}\n{"step": 4, "lo'
    again = {"step": 2, "git": "def", "started": "2"}
    assert folder.read_card() == {"git": "abc", "started": "1", "resumed": [again]}


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    folder.append_metrics({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    folder.write_summary({"loss": float("-inf")})
    assert folder.read_metrics() == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.5}]
    assert folder.read_summary() == {"loss": None}


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.claim("a: 1\n"):
        with pytest.raises(UserError, match="another process is training in it"), folder.claim("a: 2\n"):
            pass
        assert folder.read_config() == {"a": 1}
    with folder.claim("a: 2\n"):
        assert folder.read_config() == {"a": 2}


def _save(folder: RunFolder, step: int, keep_last: int) -> None:
    folder.draft_checkpoint(step).mkdir(parents=True, exist_ok=True)
    (folder.draft_checkpoint(step) / "x").write_text(str(step))
    folder.commit_checkpoint(step)
    folder.prune(keep_last, 0)


def test_a_checkpoint_is_seen_only_when_it_is_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.draft_checkpoint(step).mkdir(parents=True)
        assert folder.latest_checkpoint() == (f"step-{step - 1:08d}" if step > 1 else None)
        _save(folder, step, keep_last=2)
    assert folder.latest_checkpoint() == "step-00000003"
    assert sorted(path.name for path in folder.checkpoints.glob("step-*")) == ["step-00000002", "step-00000003"]
    (folder.checkpoints / "latest").write_text("step-00000009")
    with pytest.raises(UserError, match="there is no such checkpoint"):
        folder.latest_checkpoint()


def test_going_back_to_an_older_checkpoint_keeps_the_later_ones_and_prunes_none_that_is_new(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    for step in (10, 20, 30):
        _save(folder, step, keep_last=3)
    (folder.checkpoints / "latest").write_text("step-00000010")
    folder.begin({"git": "abc", "started": "2"}, 10)
    _save(folder, 15, keep_last=1)
    assert folder.latest_checkpoint() == "step-00000015"
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "latest", "step-00000015", "superseded-step-00000020-1", "superseded-step-00000030-1"
    ]  # fmt: skip


def test_a_commit_that_could_not_write_the_pointer_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    _save(folder, 1, keep_last=2)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            _save(folder, 2, keep_last=2)
    assert folder.latest_checkpoint() == "step-00000001"
    _save(folder, 2, keep_last=2)
    assert folder.latest_checkpoint() == "step-00000002"
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["latest", "step-00000001", "step-00000002"]


def test_a_checkpoint_that_was_put_elsewhere_is_pruned_as_a_link(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    _save(folder, 1, keep_last=1)
    (folder.checkpoints / "step-00000001").rename(tmp_path / "elsewhere")
    (folder.checkpoints / "step-00000001").symlink_to(tmp_path / "elsewhere")
    _save(folder, 2, keep_last=1)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["latest", "step-00000002"]
    assert (tmp_path / "elsewhere" / "x").is_file()


@pytest.mark.parametrize("line", [b'{"step": null}\n', b"\xff\xfe\n", b"[]\n", b'{"step": 1, "loss": 2.0}'])
def test_a_line_of_metrics_that_says_no_step_is_put_aside(tmp_path: Path, line: bytes) -> None:
    folder = _begun(tmp_path / "run")
    folder.append_metrics({"step": 1})
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(line)
    folder.begin({"git": "abc", "started": "2"}, 1)
    folder.append_metrics({"step": 2})
    assert folder.read_metrics() == [{"step": 1}, {"step": 2}]
    assert (tmp_path / "run" / "metrics.superseded-1.jsonl").is_file()


@pytest.mark.parametrize("name", ["config.yaml", "run_card.json", "summary.json"])
def test_a_file_of_something_else_is_damaged(tmp_path: Path, name: str) -> None:
    folder = _begun(tmp_path / "run")
    (tmp_path / "run" / name).write_text("[]")
    read = {"config.yaml": folder.read_config, "run_card.json": folder.read_card, "summary.json": folder.read_summary}
    with pytest.raises(UserError, match="it is damaged"):
        read[name]()


def test_those_of_every_so_many_steps_are_kept_for_good(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (5, 10, 15, 20, 25):
        folder.draft_checkpoint(step).mkdir(parents=True)
        folder.commit_checkpoint(step)
        folder.prune(keep_last=1, keep_every=10)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "latest", "step-00000010", "step-00000020", "step-00000025"
    ]  # fmt: skip
    assert folder.checkpoint_names() == ["step-00000025", "step-00000020", "step-00000010"]
    (folder.checkpoints / "latest").write_bytes(b"\0" * 13)  # as a power cut may leave it
    assert folder.latest_checkpoint() == "step-00000025"
    (folder.checkpoints / "latest").unlink()
    assert folder.checkpoint_names()[0] == "step-00000025"
    folder.put_aside(["step-00000025", "step-00000020"], "step-00000010")
    assert folder.checkpoint_names() == ["step-00000010"]
    assert (folder.checkpoints / "damaged-step-00000025-1").is_dir()
    (folder.checkpoints / "latest").write_text("../step-00000010")
    with pytest.raises(UserError, match="there is no such checkpoint"):
        folder.checkpoint_names()


def test_what_a_kill_left_half_done_goes_away(tmp_path: Path) -> None:
    folder = _begun(tmp_path / "run")
    for name in (".step-00000007.tmp", ".step-00000003.removed"):
        (folder.checkpoints / name).mkdir(parents=True)
        (folder.checkpoints / name / "x").write_text("half")
    folder.begin({"git": "abc", "started": "1"}, 0)
    assert not list(folder.checkpoints.iterdir())


@pytest.mark.parametrize(
    ("make", "run", "says"),
    [
        (lambda root: (root / "file").write_text("x"), "file", "it exists and is not a run's folder"),
        (lambda root: (root / "file").write_text("x"), "file/run", "file is not a folder"),
        (lambda root: (root / "link").symlink_to(root / "nowhere"), "link", "it exists and is not a run's folder"),
        (lambda root: (root / "link").symlink_to(root / "nowhere"), "link/run", "link is not a folder"),
    ],
)
def test_a_path_that_cannot_be_a_run_is_refused(tmp_path: Path, make: Callable, run: str, says: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=says):
        RunFolder(tmp_path / run).check()
    RunFolder(tmp_path / "new" / "run").check()
    assert not (tmp_path / "new").exists()


def test_differences_are_named_by_their_path() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert list(differences(old, new)) == [("a.c", 2, 4), ("d", 3, None), ("e", None, 5)]
