"""Starting on many hosts: what is asked for, and what a host's variables say."""

from __future__ import annotations

from .mischief import file
from .rows import Row

_TWO = "--nodes 2 --gpus-per-node 2 --master a --shared /"
_PODS = "--gpus-per-node 2 --image i --claim c --shared /shared run.dir=/shared/run data.path=/shared/data"
_PORT = "write it like node1:29500"

LAUNCH: tuple[Row, ...] = (
    Row(
        "no target",
        "ibnorm launch tiny.yaml",
        (
            "the command line of ibnorm launch is not understood: the following arguments are required: --print; see: ibnorm launch --help.",
        ),
    ),
    Row(
        "an unknown target",
        "ibnorm launch --print pbs tiny.yaml",
        (
            "the command line of ibnorm launch is not understood: argument --print: invalid choice: 'pbs' (choose from <a list>); see: ibnorm launch --help.",
        ),
    ),
    Row(
        "no number of ranks",
        "ibnorm launch --print torchrun tiny.yaml",
        ("--gpus-per-node is missing: the layout depends on it; give --gpus-per-node N, or --processes-per-node N on CPUs.",),
    ),
    Row(
        "no ranks, hosts or restarts",
        "ibnorm launch --print torchrun tiny.yaml --nodes two --processes-per-node 0 --max-restarts -1",
        (
            "--nodes is 'two': it is no number of hosts, and no range of such numbers; write it like 2, or 2:4.",
            "--processes-per-node is 0: a host has at least one rank; give 1 or more.",
            "--max-restarts is -1: there is no such number of restarts; give 0 or more.",
        ),
    ),
    Row(
        "a world that the layout does not divide, and hosts that know of nothing",
        "ibnorm launch --print torchrun tiny.yaml --nodes 3 --gpus-per-node 1 parallel.tensor=2",
        (
            "the world size is 3: the layout needs a multiple of tensor 2 x pipeline 1 x context 1 = 2 processes; launch 2 or a multiple, or set parallel.tensor.",
            "--master is missing: the hosts have to meet somewhere; give --master HOST[:PORT].",
            "parallel.tensor is 2: with 1 ranks a host, ranks that share every matrix product sit on several hosts; set parallel.tensor=1 and parallel.pipeline or parallel.zero_stage for the rest, or --tensor-across-nodes.",
            "--shared is missing: every host has to see run.dir and data.path; give --shared with the path of a folder that they all have.",
        ),
    ),
    Row(
        "a batch that the data ranks of the fewest hosts cannot share",
        "ibnorm launch --print torchrun tiny.yaml --nodes 3:4 --gpus-per-node 2 --master a --shared / --max-restarts 1",
        ("train.global_batch_size is 8: 6 data-parallel ranks cannot share it equally; use a multiple of 6.",),
    ),
    Row(
        "tensor ranks on several hosts",
        "ibnorm launch --print slurm tiny.yaml --nodes 2 --gpus-per-node 1 --shared / parallel.tensor=2",
        (
            "parallel.tensor is 2: with 1 ranks a host, ranks that share every matrix product sit on several hosts; set parallel.tensor=1 and parallel.pipeline or parallel.zero_stage for the rest, or --tensor-across-nodes.",
        ),
    ),
    Row(
        "a shared folder that is not there",
        "ibnorm launch --print slurm tiny.yaml --nodes 2 --gpus-per-node 1 --shared /no/such/folder",
        (
            "--shared is /no/such/folder: there is no such folder here, and hosts see it under one name; mount it, or print this on one of the hosts.",
        ),
    ),
    Row(
        "a shared folder that is another one everywhere",
        "ibnorm launch --print slurm tiny.yaml --nodes 2 --gpus-per-node 1 --shared data",
        ("--shared is 'data': it means another folder on every host; write it from / on.",),
    ),
    Row(
        "folders outside the shared one",
        "ibnorm launch --print slurm tiny.yaml --nodes 2 --gpus-per-node 1 --shared /usr run.branch_from=/usr/x",
        (
            "run.dir is run: it is not below --shared /usr, and hosts see no other; put it below /usr.",
            "data.path is data: it is not below --shared /usr, and hosts see no other; put it below /usr.",
        ),
    ),
    Row(
        "a container without a place for its run",
        "ibnorm launch --print k8s-job tiny.yaml --gpus-per-node 1 --image i --claim c",
        (
            "--shared is missing: run.dir has to outlive the container; give --shared with the path of a folder that they all have.",
        ),
    ),
    Row(
        "a container of nothing",
        "ibnorm launch --print apptainer tiny.yaml --gpus-per-node 1",
        ("--image is missing: a container runs an image; give --image IMAGE.",),
    ),
    Row(
        "folders of this machine in an image",
        "ibnorm launch --print k8s-job tiny.yaml --gpus-per-node 1 --image i --claim c --shared /shared",
        (
            "run.dir is run: it is not below --shared /shared, and an image has folders of its own, so paths are written from / on; put it below /shared.",
            "data.path is data: it is not below --shared /shared, and an image has folders of its own, so paths are written from / on; put it below /shared.",
        ),
    ),
    Row(
        "a plugin that no image has",
        f"ibnorm launch --print k8s-trainjob tiny.yaml {_PODS} plugins=[mine.py]",
        (
            "plugins is mine.py: it is not below --shared /shared, and ranks in an image see no other file of yours; put it below /shared and write its path from / on.",
        ),
        before=file("mine.py", '"""Registers nothing."""\n'),
    ),
    Row(
        "no image and no volume",
        "ibnorm launch --print k8s-pytorchjob tiny.yaml --gpus-per-node 1 --shared /shared run.dir=/shared/run data.path=/shared/data",
        (
            "--image is missing: a container runs an image; give --image IMAGE.",
            "--claim is missing: pods see the shared folder through a claim on a volume; give --claim NAME.",
        ),
    ),
    Row(
        "names that Kubernetes does not take",
        f"ibnorm launch --print k8s-job tiny.yaml {_PODS} --name Run_1 --namespace -",
        (
            "--name is 'Run_1': Kubernetes takes up to 40 small letters, digits and hyphens, a letter first and no hyphen last; choose another.",
            "--namespace is '-': Kubernetes takes up to 40 small letters, digits and hyphens, a letter first and no hyphen last; choose another.",
        ),
    ),
    Row(
        "options without an effect",
        f"ibnorm launch --print torchrun tiny.yaml {_TWO} --time 1:00:00 --image i",
        (
            "--image is i: it has no effect on the target torchrun; leave it out.",
            "--time is 1:00:00: it has no effect on the target torchrun; leave it out.",
        ),
    ),
    Row(
        "a time that is none",
        "ibnorm launch --print slurm tiny.yaml --gpus-per-node 1 --time soon",
        ("--time is 'soon': it is no time; write it like 30 (minutes), 12:00:00 or 2-12:00:00.",),
    ),
    Row(
        "a port that is none",
        "ibnorm launch --print torchrun tiny.yaml --nodes 2 --gpus-per-node 2 --shared / --master a:b",
        (f"--master is 'a:b': what follows the colon is no port; {_PORT}.",),
    ),
    Row(
        "a range of hosts that goes down",
        "ibnorm launch --print torchrun tiny.yaml --nodes 2:1 --gpus-per-node 2 --shared / --master a",
        ("--nodes is 2:1: the fewest hosts are more than the most; write it like 2:4.",),
    ),
    Row(
        "a range of hosts where there is none",
        "ibnorm launch --print slurm tiny.yaml --nodes 1:2 --gpus-per-node 2 --shared /",
        ("--nodes is 1:2: the target slurm starts a number of hosts, and no range; give one number, such as 2.",),
    ),
    Row(
        "fewer hosts without a restart",
        "ibnorm launch --print torchrun tiny.yaml --nodes 1:2 --gpus-per-node 2 --shared / --master a",
        (
            "--nodes is 1:2: a run goes on with fewer hosts by starting its ranks again, and --max-restarts is 0; give --max-restarts 1 or more.",
        ),
    ),
    Row(
        "no hosts for DeepSpeed",
        "ibnorm launch --print deepspeed tiny.yaml --nodes 2 --gpus-per-node 2 --shared /",
        ("--hostfile is missing: DeepSpeed's launcher has to know the hosts; give --hostfile FILE.",),
    ),
    Row(
        "a hostfile that is not there",
        "ibnorm launch --print deepspeed tiny.yaml --nodes 2 --gpus-per-node 2 --shared / --hostfile hosts",
        (
            "--hostfile is hosts: it cannot be read (No such file or directory); give a file with a line like node1 slots=8 a host.",
        ),
    ),
    Row(
        "a hostfile with no hosts",
        "ibnorm launch --print deepspeed tiny.yaml --nodes 2 --gpus-per-node 2 --shared / --hostfile hosts",
        ("--hostfile is hosts: it names no host; write a line like node1 slots=8 for each.",),
        before=file("hosts", "# none yet\n"),
    ),
    Row(
        "a line in a hostfile that is none",
        "ibnorm launch --print deepspeed tiny.yaml --nodes 2 --gpus-per-node 2 --shared / --hostfile hosts",
        ("line 2 of hosts is 'n2 slots=two': it names no host; write it like node1 slots=8.",),
        before=file("hosts", "n1 slots=2\nn2 slots=two\n"),
    ),
    Row(
        "a hostfile of other hosts",
        "ibnorm launch --print deepspeed tiny.yaml --nodes 2 --gpus-per-node 2 --shared / --hostfile hosts",
        (
            "--hostfile is hosts: it names 3 hosts, and --nodes is 2; set --nodes 3, or mend the file.",
            "--hostfile is hosts: it gives n2 no slots, and DeepSpeed reads no such line; write n2 slots=2.",
            "--hostfile is hosts: it gives n3 4 slots, and 2 ranks are asked for on each host; write slots=2, the same for every host.",
        ),
        before=file("hosts", "n1 slots=2\nn2\nn3 slots=4\n"),
    ),
    Row(
        "no config for a host",
        "python -m ibnorm_megatron.cluster.agent",
        ("the config file is missing: a run needs one; run: launch/torchrun.sh CONFIG [room.field=value ...].",),
        alone=True,
    ),
    Row(
        "variables of a host",
        "NNODES=3:2 NPROC_PER_NODE=all NODE_RANK=3 MASTER_PORT=0 RDZV_CONF=fast python -m ibnorm_megatron.cluster.agent tiny.yaml",
        (
            "NPROC_PER_NODE is 'all': it is no whole number from 1; give a whole number.",
            "MASTER_PORT is '0': it is no whole number from 1 to 65535; give a whole number.",
            "NNODES is 3:2: the fewest hosts are more than the most; write it like 2:4.",
            "MASTER_ADDR is missing: 2 hosts have to meet somewhere; set it to the name or address of one of them, the same on all.",
            "NODE_RANK is 3: there are 2 hosts, numbered from 0; give a lower one.",
            "RDZV_CONF is 'fast': it is no list of settings for torchrun's rendezvous; write it like last_call_timeout=5,close_timeout=5.",
        ),
        alone=True,
    ),
    Row(
        "hosts that are no number",
        "NNODES=many python -m ibnorm_megatron.cluster.agent tiny.yaml",
        (
            "NNODES is 'many': it is no number of hosts, and no range of such numbers; write it like 2, or 2:4 for at least 2 and at most 4.",
        ),
        alone=True,
    ),
    Row(
        "a world of hosts that the layout does not divide",
        "NNODES=3 NPROC_PER_NODE=1 MASTER_ADDR=127.0.0.1 python -m ibnorm_megatron.cluster.agent tiny.yaml parallel.tensor=2",
        (
            "the world size is 3: the layout needs a multiple of tensor 2 x pipeline 1 x context 1 = 2 processes; launch 2 or a multiple, or set parallel.tensor.",
        ),
        alone=True,
    ),
)
