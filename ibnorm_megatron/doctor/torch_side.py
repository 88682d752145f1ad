"""The probe as seen from outside: started early, waited for a bounded time, and what it said turned into findings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .finding import Finding, gibibytes, ok, problem, warning

AREA, KERNELS = "torch", "kernels"

#: What the probe speaks of, in order, and how it is called where it says nothing of it.
_STAGES = {
    "torch": "importing torch",
    "gloo": "a sum over two processes (gloo)",
    "kernels": "asking for kernels",
    "gpus": "GPUs",
}
_ON_GPUS = {"nccl": "a sum over GPUs (NCCL)", "fused": "a fused norm"}


class Probe:
    """A probe that runs meanwhile.

    Args:
        environ: its environment.
        seconds: how long it may take from now.
        module: what it runs.
    """

    def __init__(self, environ: Mapping[str, str], seconds: float = 60.0, module: str = "ibnorm_megatron.doctor.probe") -> None:
        self._ends, self._seconds = time.monotonic() + seconds, seconds
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (no pipe that could fill)
        root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")]))  # whatever the folder it is called in
        command = [sys.executable, "-m", module]
        given = {**environ, "PYTHONPATH": path, "TORCH_CPP_LOG_LEVEL": "FATAL", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(  # noqa: S603 (our own module)
            command, env=given, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True
        )

    def findings(self, gpu: bool) -> Iterator[Finding]:
        """Wait, end what is left of it, and say what it found.

        Args:
            gpu: whether the machine has a driver for GPUs.
        """
        ended = ""
        try:
            code = self._process.wait(max(0.0, self._ends - time.monotonic()))
            ended = f"it ended with exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"it was not done within {self._seconds:.0f} s"
        with suppress(ProcessLookupError, PermissionError):  # the second process may hang where the first has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        said: dict[str, dict[str, Any]] = {}
        for line in self._read(self._out).splitlines():
            with suppress(ValueError, KeyError, TypeError):  # libraries may print as well
                values = json.loads(line)
                said[values["what"]] = values
        yield from _findings(said, gpu)
        if ended:
            on_gpus = _ON_GPUS if said.get("gpus", {}).get("gpus") else {}
            silent = next((what for stage, what in {**_STAGES, **on_gpus}.items() if stage not in said), "its end")
            last = next((line.strip() for line in reversed(self._read(self._err).splitlines()) if line.strip()), "")
            says = f"{ended}, at: {silent}" + (f" ({last[:200]})" if last else "")
            mend = "run: python -m ibnorm_megatron.doctor.probe, and look at what it says"
            yield problem(AREA, "probe", says, mend)

    @staticmethod
    def _read(file: Any) -> str:
        file.seek(0)
        return str(file.read().decode(errors="replace"))


def _findings(said: Mapping[str, dict[str, Any]], gpu: bool) -> Iterator[Finding]:
    build = said.get("torch")
    if build is None:
        return
    if "error" in build:
        yield problem(AREA, "torch", build["error"], "install torch again: pip install --force-reinstall torch")
        return
    kind = f"for CUDA {build['cuda']}" if build["cuda"] else f"for ROCm {build['hip']}" if build["hip"] else "for CPUs"
    yield ok(AREA, "torch", f"{build['version']}, built {kind}", **build)
    if gpu and kind == "for CPUs":
        mend = "install a torch that is built for it: https://pytorch.org/get-started/locally"
        yield warning(
            AREA, "torch and GPU", "there is a driver for GPUs, and torch is built for CPUs: runs will not use them", mend
        )
    yield from _sums(said, build)
    yield from _gpus(said.get("gpus"), gpu)
    yield from _kernels(said)


def _sums(said: Mapping[str, dict[str, Any]], build: dict[str, Any]) -> Iterator[Finding]:
    names = ", ".join(name for name, there in build["backends"].items() if there) or "none"
    yield ok(AREA, "collectives", names + (f"; NCCL {build['nccl']}" if build["nccl"] else ""))
    if not build["backends"]["gloo"]:
        yield problem(AREA, "gloo", "this torch has none: ranks cannot meet", "install another build of torch")
    for backend in ("gloo", "nccl"):
        if (told := said.get(backend)) is None:
            continue
        if "error" in told:
            hints = {"gloo": "GLOO_SOCKET_IFNAME=lo", "nccl": "NCCL_DEBUG=INFO, and look at what NCCL says"}
            mend = f"try again with {hints[backend]}"
            yield problem(AREA, backend, f"a sum over processes failed: {told['error']}", mend)
        else:
            ranks = "two processes" if told["ranks"] == 2 else "one GPU"
            yield ok(AREA, backend, f"a sum over {ranks} is right, in {told['seconds']:.1f} s", **told)


def _gpus(told: dict[str, Any] | None, gpu: bool) -> Iterator[Finding]:
    if told is None:
        return
    if "error" in told:
        yield problem("GPU", "GPUs", told["error"], "run: nvidia-smi, and mend what it says")
        return
    if not told["gpus"]:
        if gpu:
            mend = "run: nvidia-smi, and look at CUDA_VISIBLE_DEVICES; in a container start it with --gpus all"
            yield warning("GPU", "GPUs", "there is a driver, and torch finds no GPU: runs train on CPUs", mend)
        else:
            yield ok("GPU", "GPUs", "none: runs train on CPUs")
        return
    driver = _driver()
    for number, it in enumerate(told["gpus"]):
        says = f"{it['name']}, {gibibytes(it['free_bytes'])} free of {gibibytes(it['total_bytes'])}, compute capability "
        says += f"{it['capability']}, driver {driver or 'unknown'}"
        name, own = f"GPU {number}", {**it, "driver": driver}
        if not _is_built_for(it["capability"], told["built_for"]):
            mend = "install a torch that is built for this GPU"
            yield problem("GPU", name, f"{says}; torch is built for {', '.join(told['built_for'])}", mend, **own)
        elif it["free_bytes"] < it["total_bytes"] / 2:
            mend = "run: nvidia-smi, and end who has its memory if that is nobody's work"
            yield warning("GPU", name, f"{says}: somebody else uses it", mend, **own)
        else:
            yield ok("GPU", name, says, **own)


def _is_built_for(capability: str, built: list[str]) -> bool:
    """Machine code runs on later minor versions of its major one, and PTX on everything later."""
    major, minor = map(int, capability.split("."))
    for one in built:
        kind, _, digits = one.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdecimal() or len(digits) < 2:
            return True  # AMD's names: torch knows
        at = int(digits[:-1]), int(digits[-1])
        if (kind == "sm" and at[0] == major and at[1] <= minor) or (kind == "compute" and at <= (major, minor)):
            return True
    return False


def _driver() -> str | None:
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    line = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(line, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
        return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None
    return None


def _kernels(said: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    told, gpus = said.get("kernels"), said.get("gpus", {}).get("gpus")
    if told is None:
        return
    if "error" in told:
        yield warning(KERNELS, "kernels", told["error"], "install this program again")
        return
    if not gpus:
        missing = next((why for why in told["norms"].values() if why and "Triton" in why), None)
        triton = "Triton is there for one" if missing is None else "Triton is not installed"
        yield ok(KERNELS, "norms", f"eager, in blocks that stay in cache: there is no GPU ({triton})")
        yield ok(KERNELS, "attention", f"no flash-attn: {told['attention']['cpu']}")
    else:
        yield from _kernels_on_gpu(told, said.get("fused"))
    yield ok(KERNELS, "Transformer Engine, Apex", "not used, installed or not: norms, attention and optimizer are others")


def _kernels_on_gpu(told: dict[str, Any], fused: dict[str, Any] | None) -> Iterator[Finding]:
    reasons = dict.fromkeys(why for why in told["norms"].values() if why)
    if reasons:
        yield warning(KERNELS, "norms", "; ".join(reasons), "run: pip install triton", **told["norms"])
    elif fused is not None and "error" in fused:
        yield problem(KERNELS, "norms", f"a fused norm fails: {fused['error']}", "send this report to the maintainers")
    else:
        names = ", ".join(told["norms"])
        yield ok(KERNELS, "norms", f"fused by Triton in bf16, fp16 and fp32: {names}; but {told['learned']}")
    if why := told["attention"]["gpu"]:
        yield warning(KERNELS, "attention", why, "run: pip install flash-attn --no-build-isolation")
    else:
        yield ok(KERNELS, "attention", "flash-attn in bf16 and fp16, PyTorch's in fp32")
