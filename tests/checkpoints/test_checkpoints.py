"""The format of checkpoints by itself: any layout reads what any other wrote, and damage never passes for content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ibnorm_megatron.checkpoints.convert import convert, export_weights
from ibnorm_megatron.checkpoints.reader import CheckpointReader
from ibnorm_megatron.checkpoints.record import RECORD, damages, read_record
from ibnorm_megatron.checkpoints.writer import Part, write_part, write_whole
from ibnorm_megatron.cli import main
from ibnorm_megatron.errors import RunFailure, UserError
from ibnorm_megatron.files import hash_file, hash_text
from ibnorm_megatron.parallel.optimizer_state import KINDS
from ibnorm_megatron.parallel.sharding import Sharding

from .making import HEAD, logical_tensors, write_checkpoint


def _shardings(ranks: int) -> dict[str, Sharding]:
    """Of every way in which Megatron-core shards: rows, columns, halves of rows, a padded vocabulary, not at all."""
    return {
        "embedding": Sharding((13, 4), 0, 1, -13 % ranks),
        "column": Sharding((8, 6), 0, 1, 0),
        "row": Sharding((5, 8), 1, 1, 0),
        "fc1": Sharding((16, 3), 0, 2, 0),
        "norm": Sharding((7,), None, 1, 0),
        "vector": Sharding((8,), 0, 1, 0),
        "sub norm": Sharding((8,), 0 if ranks > 1 else None, 1, 0),  # as a norm marks it
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    saved=st.sampled_from([1, 2, 4]),
    replicas=st.integers(1, 3),
    read=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_every_layout_reads_what_any_other_wrote(
    tmp_path_factory: pytest.TempPathFactory, saved: int, replicas: int, read: int, seed: int, data: st.DataObject
) -> None:
    folder, wanted = tmp_path_factory.mktemp("c") / "c", _shardings(read)
    tensors = logical_tensors(_shardings(saved), seed)
    whole = torch.arange(8 * 2, dtype=torch.int64).view(2, 8)
    buffers = {"sums": (whole, Sharding((2, 8), 1, 1, 0)), "rows": (torch.tensor(3), Sharding((), None, 1, 0))}
    write_checkpoint(folder, _shardings(saved), tensors, ranks=saved, replicas=replicas, buffers=buffers, seed=seed)
    reader = CheckpointReader(folder)
    assert not list(damages(folder, reader.record, reader.record.files))
    for name, sharding in wanted.items():
        for rank in range(read):
            for kind in KINDS:
                shard = sharding.take(tensors[kind][name], rank, read).reshape(-1)
                start = data.draw(st.integers(0, shard.numel() - 1))
                length = data.draw(st.integers(1, shard.numel() - start))
                found = reader.run(kind, name, sharding, rank, read, start, length)
                assert torch.equal(found, shard[start : start + length]), (name, kind, rank)
            assert torch.equal(reader.logical("weight", name), tensors["weight"][name])
    for rank in range(read):
        assert torch.equal(reader.buffer("sums", Sharding((2, 8), 1, 1, 0), rank, read), whole.chunk(read, 1)[rank])
    assert reader.buffer("rows", Sharding((), None, 1, 0), 0, read) == 3
    assert reader.random(saved * replicas - 1)["torch"].tolist() == [saved * replicas - 1] * 3


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    shardings = _shardings(2)
    write_checkpoint(tmp_path / "c", shardings, logical_tensors(shardings), ranks=2)
    reader = CheckpointReader(tmp_path / "c")
    with pytest.raises(UserError, match=r"bias in the checkpoint .* is missing: the model has it"):
        reader.run("weight", "bias", shardings["norm"], 0, 2, 0, 1)
    with pytest.raises(UserError, match=r"norm in the checkpoint .* is \[7\]: the model's is \[8\]"):
        reader.run("weight", "norm", Sharding((8,), None, 1, 0), 0, 2, 0, 1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    shardings = _shardings(2)
    write_checkpoint(folder, shardings, logical_tensors(shardings), ranks=2, replicas=2)
    return folder


def test_every_damage_is_found(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(checkpoint.iterdir())
    assert [path.name for path in files] == [RECORD, *(f"rank-0000{rank}.safetensors" for rank in range(4))]
    assert main(["checkpoint", "verify", str(checkpoint)]) == 0
    for path in files:
        content = path.read_bytes()
        for damaged in (
            content[:-2],
            b"",
            content + b"x",
            *(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :] for at in (9, len(content) // 2, len(content) - 20)),
        ):
            path.write_bytes(damaged)
            assert main(["checkpoint", "verify", str(checkpoint)]) == 1, (path.name, len(damaged))
            assert path.name in capsys.readouterr().err
        path.unlink()
        if path.name != RECORD:
            assert main(["checkpoint", "verify", str(checkpoint)]) == 1
            assert "it cannot be read (No such file or directory)" in capsys.readouterr().err
        path.write_bytes(content)
    assert main(["checkpoint", "verify", str(checkpoint)]) == 0


def _with(checkpoint: Path, change: dict) -> None:
    """Change the record as somebody would who knows how it is hashed."""
    values = {**json.loads((checkpoint / RECORD).read_text()), **change}
    values.pop("hash")
    said = hash_text(json.dumps(values, sort_keys=True, separators=(",", ":")))
    (checkpoint / RECORD).write_text(json.dumps({**values, "hash": said}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version: input should be 1"),
        ({"step": "7"}, "step: input should be a valid integer"),
        ({"files": {}}, "layout.world_size is 4, and there are 0 files"),
        ({"layout": {}}, "it is no record of a checkpoint"),
        ({"layout": {"tensor": 0}}, "layout.tensor is no number of ranks"),
        ({"layout": {"tensor": float("inf")}}, "layout.tensor is no number of ranks"),
        ({"layout": {"tensor": 2, "world_size": 3}}, "layout.world_size is 3, and there are 4 files"),
        ({"kinds": []}, "kinds do not begin with weight"),
        ({"kinds": ["weight"] * 99}, "rank-00000.safetensors is too short for what it holds"),
        (
            {"buffers": {"sums": {"shape": [2], "dim": None, "stride": 1, "padding": 0}}},
            "the buffer sums is in no file",
        ),
        (
            {"buffers": {"sums": {"shape": [2], "dim": 1, "stride": 1, "padding": 0}}},
            "sums is sharded in a dimension that it has not",
        ),
        ({"more": 1}, "more: extra inputs are not permitted"),
    ],
)
def test_a_record_that_says_something_else_is_refused(checkpoint: Path, change: dict, says: str) -> None:
    _with(checkpoint, change)
    with pytest.raises(UserError, match=says):
        read_record(checkpoint)


@pytest.mark.parametrize("name", ["../rank-00000.safetensors", "/dev/zero", "rank-00004.safetensors"])
def test_no_file_elsewhere_is_ever_opened(checkpoint: Path, name: str) -> None:
    files = json.loads((checkpoint / RECORD).read_text())["files"]
    files[name] = files.pop("rank-00000.safetensors")
    _with(checkpoint, {"files": files})
    with pytest.raises(UserError, match="files are not named as ranks are"):
        read_record(checkpoint)


def test_a_file_that_holds_something_else_is_refused_in_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """Every hash is right, but the tensors are not those that the record speaks of."""
    path = checkpoint / "rank-00000.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("weight/"))
    for wrong in ({name: tensors[name].double()}, {"other": tensors[name]}):
        save_file({**{key: value for key, value in tensors.items() if key != name}, **wrong}, path)
        files = json.loads((checkpoint / RECORD).read_text())["files"]
        files[path.name] |= {"bytes": path.stat().st_size, "hash": hash_file(path)}
        _with(checkpoint, {"files": files})
        with pytest.raises(UserError, match="it is not what the record says"):
            convert(checkpoint, tmp_path / "out", max_bytes=1 << 20)
        assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("how", [[], ["--weights", "float32"]])
def test_what_is_damaged_is_not_written_anew_with_good_hashes(checkpoint: Path, tmp_path: Path, how: list[str]) -> None:
    path = checkpoint / "rank-00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 4]) + content[-19:])
    assert main(["checkpoint", "convert", str(checkpoint), "--out", str(tmp_path / "out"), *how]) == 2
    assert not (tmp_path / "out").exists()


def test_inspect_shows_what_a_strange_record_has(checkpoint: Path) -> None:
    _with(checkpoint, {"config": {}, "card": {"data": [], "git": 3}})
    assert main(["checkpoint", "inspect", str(checkpoint)]) == 0


def test_a_part_on_another_disk_is_said(tmp_path: Path) -> None:
    write_part(tmp_path, Part(rank=0, tensor_rank=0))
    with pytest.raises(RunFailure, match=r"rank 1 wrote its part elsewhere; give a run.dir on a file system that all"):
        write_whole(tmp_path, 2, {**HEAD, "layout": {"tensor": 1}})


def test_converted_is_the_same_checkpoint_in_fewer_files(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    tensors = logical_tensors(_shardings(2))
    assert main(["checkpoint", "convert", str(checkpoint), "--out", str(tmp_path / "whole")]) == 0
    convert(checkpoint, tmp_path / "small", max_bytes=500)
    for name, files in (("whole", 1), ("small", 5)):
        reader = CheckpointReader(tmp_path / name)
        assert len(reader.record.files) == files
        assert reader.record.layout["tensor"] == 1
        for parameter, sharding in _shardings(4).items():
            shard = sharding.take(tensors["exp_avg"][parameter], 3, 4).reshape(-1)
            assert torch.equal(reader.run("exp_avg", parameter, sharding, 3, 4, 0, shard.numel()), shard)
        assert main(["checkpoint", "verify", str(tmp_path / name)]) == 0
    assert {path: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert main(["checkpoint", "convert", str(checkpoint), "--out", str(tmp_path / "whole")]) == 2
    assert "--out is " in (said := capsys.readouterr().err) and "it exists" in said
    assert main(["checkpoint", "convert", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "it is no checkpoint, and no run with one" in capsys.readouterr().err


def test_weights_alone_are_for_every_program(checkpoint: Path, tmp_path: Path) -> None:
    export_weights(checkpoint, tmp_path / "weights", "bfloat16", max_bytes=200)
    index = json.loads((tmp_path / "weights" / "model.safetensors.index.json").read_text())
    loaded = {}
    for file in sorted(set(index["weight_map"].values())):
        loaded |= load_file(tmp_path / "weights" / file)
    weights = logical_tensors(_shardings(2))["weight"]
    assert loaded.keys() == weights.keys() == index["weight_map"].keys()
    assert all(torch.equal(loaded[name], weights[name].bfloat16()) for name in weights)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in loaded.values())


def test_inspect_names_everything(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = checkpoint.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.move(checkpoint, run / "checkpoints")
    assert main(["checkpoint", "inspect", str(run), "--tensors"]) == 0
    shown = capsys.readouterr().out
    for what in ("7 of 10", "3,584", "ibnorm_log", "dimension 0 over 2", "16 x 3", "weight, exp_avg, exp_avg_sq"):
        assert what in shown
