"""The machine and the launcher: libraries, compilers, GPUs, room, ranks."""

from __future__ import annotations

from .mischief import each, file, installed, open_to_all, read_only
from .rows import Row

ENVIRONMENT: tuple[Row, ...] = (
    Row(
        "an old torch",
        "ibnorm train tiny.yaml",
        ("torch is 2.4.1+cu121: this program was written for 2.6 or later; run: pip install 'torch>=2.6'.",),
        before=installed("torch", "2.4.1+cu121"),
    ),
    Row(
        "an old Megatron-core",
        "ibnorm train tiny.yaml",
        ("megatron-core is 0.15.3: this program was written for 0.16.*; run: pip install 'megatron-core==0.16.1'.",),
        before=installed("megatron-core", "0.15.3"),
    ),
    Row(
        "a new Megatron-core",
        "ibnorm train tiny.yaml",
        ("megatron-core is 0.17.0: this program was written for 0.16.*; run: pip install 'megatron-core==0.16.1'.",),
        before=installed("megatron-core", "0.17.0"),
    ),
    Row(
        "a new DeepSpeed",
        "ibnorm train tiny.yaml",
        ("deepspeed is 0.20.0: this program was written for 0.19.*; run: pip install 'deepspeed>=0.19,<0.20'.",),
        before=installed("deepspeed", "0.20.0"),
    ),
    Row(
        "no DeepSpeed",
        "ibnorm train tiny.yaml",
        ("deepspeed is missing: it is not installed; run: pip install 'deepspeed>=0.19,<0.20'.",),
        before=installed("deepspeed", None),
    ),
    Row(
        "no tensorboard",
        "ibnorm train tiny.yaml log.tensorboard=true",
        (
            "tensorboard is missing: it is not installed, and log.tensorboard is true; run: pip install tensorboard, or switch it off.",
        ),
        before=installed("tensorboard", None),
    ),
    Row(
        "no wandb",
        "ibnorm train tiny.yaml log.wandb=offline",
        ("wandb is missing: it is not installed, and log.wandb is offline; run: pip install wandb, or switch it off.",),
        before=installed("wandb", None),
    ),
    Row(
        "no key for wandb",
        "ibnorm train tiny.yaml log.wandb=online",
        (
            "log.wandb is online: there is no key for api.wandb.ai, neither WANDB_API_KEY nor one in ~/.netrc or ~/_netrc; run: wandb login, or set log.wandb=offline.",
        ),
    ),
    Row(
        "a key for another host",
        "ibnorm train tiny.yaml log.wandb=online",
        (
            "log.wandb is online: there is no key for api.wandb.ai, neither WANDB_API_KEY nor one in ~/.netrc or ~/_netrc; run: wandb login, or set log.wandb=offline.",
        ),
        before=file(".netrc", "machine example.org login user password secret\n"),
    ),
    Row(
        "no compiler",
        "PATH=/nowhere ibnorm train tiny.yaml model.compile=layers",
        (
            "model.compile is layers: it needs a C++ compiler, and there is no g++; install g++, set CXX to a compiler, or set model.compile=none.",
        ),
    ),
    Row(
        "a compiler that is none",
        "CXX=g+++ ibnorm train tiny.yaml model.compile=norms",
        (
            "model.compile is norms: it needs a C++ compiler, and $CXX, 'g+++', is no program; install g++, set CXX to a compiler, or set model.compile=none.",
        ),
    ),
    Row(
        "nothing to build DeepSpeed's parts with",
        "PATH=/nowhere ibnorm train tiny.yaml parallel.zero_stage=3 'parallel.deepspeed={zero_optimization: {offload_param: {device: nvme}}}'",
        (
            "parallel.deepspeed.zero_optimization.offload_param.device is nvme: it needs a C++ compiler, and there is no c++; install g++, set CXX to a compiler, or use another device.",
            "parallel.deepspeed.zero_optimization.offload_param.device is nvme: DeepSpeed builds its reader of files for it, and there is no ninja; install ninja, or use another device.",
        ),
    ),
    Row(
        "no GPU",
        "ibnorm train tiny.yaml run.device=gpu",
        ("run.device is gpu: this machine has no GPU, or no driver for it; set run.device=auto to use CPUs.",),
    ),
    Row(
        "no room for a checkpoint",
        "ibnorm train tiny.yaml model.hidden_size=65536 model.ffn_hidden_size=262144 model.num_layers=4000",
        (
            "run.dir is run: a checkpoint of 257,698,629,222,400 parameters takes 3,247,002.7 GB, and <a number> GB are free there; make room, or choose another run.dir.",
        ),
    ),
    Row(
        "indices in a file",
        "ibnorm train tiny.yaml data.index_cache=tiny.yaml",
        ("data.index_cache is tiny.yaml: tiny.yaml is not a folder; choose another folder, or leave it out.",),
    ),
    Row(
        "indices where nobody may write",
        "ibnorm train tiny.yaml run.dir=open/run data.index_cache=shared",
        ("data.index_cache is shared: shared may not be written to; choose another folder, or leave it out.",),
        before=each(read_only("shared"), open_to_all("open")),
        nobody=True,
    ),
    Row(
        "a rank that is no number",
        "RANK=first python -m ibnorm_megatron.train tiny.yaml",
        ("RANK is 'first': it is no whole number from 0; start it with torchrun, deepspeed or ibnorm train, or set it right.",),
    ),
    Row(
        "a world that is no number",
        "WORLD_SIZE=2.0 python -m ibnorm_megatron.train tiny.yaml",
        (
            "WORLD_SIZE is '2.0': it is no whole number from 0; start it with torchrun, deepspeed or ibnorm train, or set it right.",
        ),
    ),
    Row(
        "a negative rank",
        "RANK=-1 WORLD_SIZE=2 python -m ibnorm_megatron.train tiny.yaml",
        ("RANK is '-1': it is no whole number from 0; start it with torchrun, deepspeed or ibnorm train, or set it right.",),
    ),
    Row(
        "a rank outside its world",
        "RANK=2 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m ibnorm_megatron.train tiny.yaml",
        ("RANK is 2: WORLD_SIZE 2 has ranks 0 to 1; start it with torchrun, deepspeed or ibnorm train, or set it right.",),
    ),
    Row(
        "a rank outside its machine",
        "RANK=0 WORLD_SIZE=2 LOCAL_RANK=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m ibnorm_megatron.train tiny.yaml",
        (
            "LOCAL_RANK is 4: LOCAL_WORLD_SIZE 2 has ranks 0 to 1; start it with torchrun, deepspeed or ibnorm train, or set it right.",
        ),
    ),
    Row(
        "an address without a port",
        "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 python -m ibnorm_megatron.train tiny.yaml",
        (
            "MASTER_PORT is missing: MASTER_ADDR is 127.0.0.1, and ranks meet at a port from 1 to 65535 there; start it with torchrun, deepspeed or ibnorm train, or set it right.",
        ),
    ),
    Row(
        "a port that is none",
        "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=99999 python -m ibnorm_megatron.train tiny.yaml",
        (
            "MASTER_PORT is '99999': MASTER_ADDR is 127.0.0.1, and ranks meet at a port from 1 to 65535 there; start it with torchrun, deepspeed or ibnorm train, or set it right.",
        ),
    ),
    Row(
        "nowhere to meet",
        "RANK=0 WORLD_SIZE=2 python -m ibnorm_megatron.train tiny.yaml",
        (
            "MASTER_ADDR is missing: 2 processes have to meet somewhere; start it with torchrun, deepspeed or ibnorm train, or set it right.",
        ),
    ),
    Row(
        "several at once",
        "ibnorm train tiny.yaml run.device=gpu log.wandb=online train.stesp=3 data.path=nowhere",
        (
            "train.stesp is 3: there is no such field here; did you mean 'steps'?",
            "data.path is nowhere: there is no prepared data there (no manifest.json); run: ibnorm prepare SOURCE --out nowhere --vocab-size N.",
            "deepspeed is 0.18.1: this program was written for 0.19.*; run: pip install 'deepspeed>=0.19,<0.20'.",
            "run.device is gpu: this machine has no GPU, or no driver for it; set run.device=auto to use CPUs.",
            "log.wandb is online: there is no key for api.wandb.ai, neither WANDB_API_KEY nor one in ~/.netrc or ~/_netrc; run: wandb login, or set log.wandb=offline.",
        ),
        before=installed("deepspeed", "0.18.1"),
    ),
)
