"""One full training step of the same LLaMA side by side: ours, Hugging Face's, litgpt's and one written by hand.

    OMP_NUM_THREADS=2 python -m benchmarks.step --threads 2 --out benchmarks/results/step_cpu

Forward, loss, backward, clipping at 1 and fused AdamW of the same weights on the same batch, each eager and through
``torch.compile``, and beside them the floor: the step's matrix products and attention alone. Ours stands in a bare loop, as
the others, and in DeepSpeed ZeRO-1 under our training loop, as a user trains. In every round every contender takes one step,
and ratios are within a round. No figure is reported before all first losses agree. A peer that is not installed says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.batch import Batch
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.parallel.cpu_compat import device
from ibnorm_megatron.parallel.engine import Engine, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.loop import Trainer
from ibnorm_megatron.train.optimizer import build_optimizer
from ibnorm_megatron.train.run_folder import RunFolder
from ibnorm_megatron.train.step import inputs

from .llamas import SHAPES, Loss, NotInstalledError, Shape, Weights, fill_ours, hand_written, hugging_face, litgpt
from .step_floor import floor_task
from .step_report import MASTERS, CaseResult, Contender, draw, print_cases, write_csv, write_page
from .timing import Clock, Task, clock_for, measure

#: How far first losses may be apart, in nats, and those of the third step, when other roundings went through an optimizer.
FIRST_LOSS_BOUND = {"fp32": 1e-5, "bf16": 2e-3}
THIRD_LOSS_BOUND = {"fp32": 1e-4, "bf16": 2e-2}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS = {"by hand": hand_written, "Hugging Face": hugging_face, "litgpt": litgpt}
CLIP = 1.0

#: One optimizer step; returns the loss before it, a scalar.
Step = Callable[[], Tensor | float]


@dataclass(frozen=True)
class Case:
    """What one comparison is about, and the batch that all its contenders see."""

    shape: Shape
    dtype: str
    weights: Weights
    tokens: Tensor
    labels: Tensor

    @staticmethod
    def of(shape: Shape, dtype: str) -> Case:
        """Random weights and tokens, the same every time."""
        tokens = torch.randint(shape.vocabulary, (shape.batch, shape.length + 1), generator=torch.Generator().manual_seed(0))
        tokens = tokens.to(device())
        return Case(shape, dtype, Weights.random(shape, 1), tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def config(self, norm: str, compiled: bool) -> Config:
        """Ours, as a config: the learning rate stands still."""
        shape = self.shape
        model = {
            "num_layers": shape.layers, "hidden_size": shape.width, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads, "ffn_hidden_size": shape.ffn, "vocab_size": shape.vocabulary,
            "max_sequence_length": shape.length, "norm": norm, "compile": "layers" if compiled else "none",
        }  # fmt: skip
        train = {
            "sequence_length": shape.length, "global_batch_size": shape.batch, "micro_batch_size": shape.batch,
            "precision": self.dtype, "grad_clip": CLIP, "lr": 1e-4, "min_lr_ratio": 1.0, "warmup_fraction": 0.0,
        }  # fmt: skip
        overrides = [f"model.{key}={value}" for key, value in model.items()]
        return load_config("configs/tiny_llama.yaml", [*overrides, *(f"train.{key}={value}" for key, value in train.items())])

    def batch(self) -> Batch:
        """The batch as our loader would hand it over: every label counts."""
        positions = torch.arange(self.shape.length, device=device()).expand(self.shape.batch, -1)
        return Batch(self.tokens, self.labels, torch.ones(self.tokens.shape, device=device()), positions.contiguous())


def bare_loop(module: nn.Module, loss: Callable[[], Tensor], config: Config) -> Step:
    """A step with nothing around it. The optimizer is the same for everyone."""
    optimizer = build_optimizer(module, config.train)
    parameters = list(module.parameters())

    def step() -> Tensor:
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def master_loop(module: nn.Module, loss: Callable[[], Tensor], config: Config) -> Step:
    """As :func:`bare_loop`, with float32 masters and moments, as DeepSpeed has them, of weights that are in bf16."""
    parameters = list(module.parameters())
    masters = nn.ParameterList(parameter.detach().float() for parameter in parameters)
    optimizer = build_optimizer(masters, config.train)

    def step() -> Tensor:
        value = loss()
        value.backward()
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(masters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_copy_(parameters, list(masters))
        return value.detach()

    return step


def peer_step(case: Case, builder: Callable[..., tuple[nn.Module, Loss]], compiled: bool) -> Step:
    """A peer in a bare loop."""
    module, loss = builder(case.shape, case.weights, DTYPES[case.dtype], compiled)
    module.to(device())
    return bare_loop(module, lambda: loss(case.tokens, case.labels), case.config("rmsnorm", False))


def our_module(case: Case, config: Config, groups: Groups) -> LanguageModel:
    """Our model with the case's weights."""
    module = LanguageModel(config.model, groups, config.train.precision, 1)
    fill_ours(module, case.shape, case.weights)
    return module


def our_bare_step(case: Case, norm: str, compiled: bool, groups: Groups, loop: Callable[..., Step] = bare_loop) -> Step:
    """Ours as the peers: no DeepSpeed, and in bf16 no float32 masters, unless the loop has them."""
    config, batch = case.config(norm, compiled), inputs(case.batch())
    module = our_module(case, config, groups).to(device())
    return loop(module, lambda: module(**batch) / case.shape.tokens, config)


def our_trained_step(case: Case, norm: str, compiled: bool, groups: Groups, held: ExitStack) -> Step:
    """Ours as a user trains it: ZeRO-1 and :class:`Trainer`, with no callbacks and the batch in the loader's place."""
    config = case.config(norm, compiled)
    module = our_module(case, config, groups)
    size = case.shape.batch
    settings = deepspeed_config(config.parallel, config.train.precision, micro_batch_size=size, micro_batches=1, grad_clip=CLIP)
    engine = Engine(module, build_optimizer(module, config.train), groups, settings, CLIP)
    held.callback(engine.close)
    nothing = cast(Any, None)  # a step asks neither for the data's manifest
    loader = cast(Loader, _SameBatch(case.batch()))
    trainer = Trainer(config, nothing, groups, engine, loader, RunFolder("unused"), [], Guard(config.guard))
    return lambda: trainer._step()["loss"]  # run() would take all its steps at once


class _SameBatch:
    """In the loader's place: one micro-batch, the same at every step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batches(self, first_sample: int) -> list[Batch]:
        return [self._batch]


def builders(case: Case, compiled: bool, groups: Groups, held: ExitStack) -> Iterator[tuple[Contender, Callable[[], Step]]]:
    """Every contender and what builds its step."""
    for how in (False, True) if compiled else (False,):
        for name, builder in PEERS.items():
            yield Contender(name, how), lambda builder=builder, how=how: peer_step(case, builder, how)
        yield Contender("ours", how, ours=True), lambda how=how: our_bare_step(case, "rmsnorm", how, groups)
        if case.dtype == "bf16":
            masters = Contender(MASTERS, how, ours=True)
            yield masters, lambda how=how: our_bare_step(case, "rmsnorm", how, groups, master_loop)
        trained = Contender("ours, engine + loop", how, ours=True)
        yield trained, lambda how=how: our_trained_step(case, "rmsnorm", how, groups, held)
        ibnorm = Contender("ours, ibnorm_log", how, ours=True, same_model=False)
        yield ibnorm, lambda how=how: our_bare_step(case, "ibnorm_log", how, groups)


def check_losses(found: dict[Contender, tuple[float, float]], dtype: str) -> None:
    """That all train the same model: losses of the first and the third step, by contender.

    Raises:
        RuntimeError: one does something else than the others.
    """
    for ours_alone in (False, True):  # another norm is another model: its compiled form is held against its eager one
        there = {one: losses for one, losses in found.items() if one.same_model != ours_alone}
        if not there:
            continue
        base = next(iter(there.values()))
        for one, losses in there.items():
            for own, its, bound in zip(losses, base, (FIRST_LOSS_BOUND[dtype], THIRD_LOSS_BOUND[dtype]), strict=True):
                if not abs(own - its) <= bound:
                    raise RuntimeError(f"{one} has loss {own:.6f} where {next(iter(there))} has {its:.6f}: nothing is reported")


def run_case(shape: Shape, dtype: str, rounds: int, compiled: bool, groups: Groups) -> CaseResult:
    """Build all contenders, let each take three steps, compare their losses, and only then measure."""
    torch.compiler.reset()
    case, missing = Case.of(shape, dtype), {}
    steps: dict[Contender, Step] = {}
    losses: dict[Contender, tuple[float, float]] = {}
    with ExitStack() as held:
        listed = list(builders(case, compiled, groups, held))
        with Progress(f"building, {dtype}", len(listed), unit="contenders") as progress:
            for contender, build in listed:
                progress.advance(note=str(contender))
                try:
                    step = build()
                except NotInstalledError:
                    missing[contender] = "not installed"
                    continue
                first, _, third = (float(step()) for _ in range(3))
                steps[contender], losses[contender] = step, (first, third)
        check_losses(losses, dtype)
        tasks = {str(contender): _task(step) for contender, step in steps.items()}
        tasks["floor"] = floor_task(shape, DTYPES[dtype], device())
        progress = Progress(f"{shape}, {dtype}", (rounds + 1) * len(tasks), unit="steps")
        samples = measure(tasks, clock_for(device()), rounds, warm_up=1, progress=progress)
    seconds = {name: parts["step"] for name, parts in samples.items()}
    return CaseResult(shape, dtype, [contender for contender, _ in listed], seconds, missing, losses)


def _task(step: Step) -> Task:
    def run(clock: Clock) -> dict[str, float]:
        return {"step": clock(step)[1]}

    return run


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = "; ".join(f"{name}: {shape}" for name, shape in SHAPES.items())
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["S", "M"], help=sizes)
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what torch.compile makes")
    parser.add_argument("--out", type=Path, help="write OUT.csv, OUT.md and OUT.png")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the files."""
    quiet()
    given = parse(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(given.threads)
    with process_group(World(0, 1, 0)):
        found = []
        for shape in given.shape:
            for dtype in given.dtype:
                config = Case.of(SHAPES[shape], dtype).config("rmsnorm", False)
                with model_parallel(config.parallel, 1) as groups:
                    found.append(run_case(SHAPES[shape], dtype, given.rounds, given.compile, groups))
                print_cases(found[-1:])
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(found, given.out.with_suffix(".csv"))
        draw(found, given.out.with_suffix(".png"))
        write_page(found, given.out.with_suffix(".md"), given.rounds)


if __name__ == "__main__":
    main()
