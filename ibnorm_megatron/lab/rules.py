"""From a model's size and the study's horizons to batch, steps, warm-up and decay: one rule for every arm and size.

What follows is the derivation; ``docs/lab.md`` has it in prose, and ``ibnorm lab plan`` prints it with a study's numbers.
N is parameters without embeddings, head and norms; h are tokens a parameter; D = h N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

#: (1) Batch. The best batch and the critical one grow as a power of D and hardly with N: Bergsma et al., Power Lines, arXiv
#: 2505.13738 (both); Zhang et al., arXiv 2410.21676 (critical). The fitted exponents are near 0.4. The anchor is ours, and on
#: the safe side, since a batch below the critical one costs steps and no tokens: DeepSeek's 0.292 C^0.3271 tokens (arXiv
#: 2401.02954) is 34 thousand for 5M parameters and 1e8 tokens, and this is twice that.
BATCH_EXPONENT = 0.4
BATCH_ANCHOR_TOKENS = 2**16
BATCH_ANCHOR_HORIZON = 1e8

#: (2) Steps. The shortest horizon keeps at least so many, whatever (1) says: Adam's second moments, the warm-up and the decay
#: are counted in steps, and none of them is itself in fewer. It is our choice.
LEAST_STEPS = 150

#: (3) Warm-up. As many tokens as there are parameters (Porian et al., arXiv 2406.19146, who found that a longer one bends
#: the scaling of small models), but at most this share of the shortest horizon, so that it is over before any decay begins.
#: It is the same number of steps in the trunk and in its branches, which share it.
WARMUP_SHARE = 0.1

#: (4) Decay. The last fifth of the steps, linearly: enough to reach what a cosine of that length reaches (Hagele et al.,
#: arXiv 2405.18392), and the state before it is that of any longer run. Down to zero: Bergsma et al., arXiv 2502.15938.
DECAY_FRACTION = 0.2
MIN_LR_RATIO = 0.0

#: (5) Evaluation. The same sequences at every size, though batches differ: as many as ``evaluate.batches`` of the base config's
#: own batch are, up to a multiple of the largest batch.

#: Fields of a run's config that these rules and the study set; nothing else may.
DECIDED = (
    "model.norm",
    "model.norm_placement",
    "model.qk_norm",
    "model.num_layers",
    "model.hidden_size",
    "model.num_attention_heads",
    "model.num_key_value_heads",
    "model.ffn_hidden_size",
    "model.mup_base_width",
    "train.steps",
    "train.global_batch_size",
    "train.seed",
    "train.lr",
    "train.schedule",
    "train.warmup_fraction",
    "train.decay_fraction",
    "train.min_lr_ratio",
    "checkpoint.at",
    "run.dir",
    "run.branch_from",
)

TransferRule = Literal["mup", "power_law", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How a size is trained, the same in all arms.

    Attributes:
        parameters: N.
        sequence_length: tokens.
        batch: sequences a step.
        warmup_steps: from the beginning of every run, whatever its length.
        evaluation_batches: of this size's batch, at the end of a run.
    """

    parameters: int
    sequence_length: int
    batch: int
    warmup_steps: int
    evaluation_batches: int = 1

    @property
    def batch_tokens(self) -> int:
        """Tokens a step."""
        return self.batch * self.sequence_length

    def steps(self, horizon: float) -> int:
        """Steps of a run of this many tokens a parameter."""
        return _steps(self.parameters, horizon, self.batch_tokens)

    def tokens(self, horizon: float) -> int:
        """Tokens that it sees: a whole number of batches."""
        return self.steps(horizon) * self.batch_tokens

    def decay_begins(self, horizon: float) -> int:
        """The last step at the peak learning rate, by the formula of :func:`ibnorm_megatron.train.schedule.learning_rate`."""
        steps = self.steps(horizon)
        return steps - max(1, round(DECAY_FRACTION * steps))

    def train_fields(self, horizon: float) -> dict[str, int | float | str]:
        """What of ``train`` the rules decide for a run of this horizon."""
        steps = self.steps(horizon)
        return {
            "steps": steps,
            "global_batch_size": self.batch,
            "schedule": "wsd",
            "warmup_fraction": self.warmup_steps / steps,
            "decay_fraction": DECAY_FRACTION,
            "min_lr_ratio": MIN_LR_RATIO,
        }


def recipe_of(parameters: int, horizons: Sequence[float], sequence_length: int, batch_tokens: int | None = None) -> Recipe:
    """The rules above for one size.

    Args:
        parameters: N.
        horizons: tokens a parameter, of all ends of training of this size, tuning's among them.
        sequence_length: tokens.
        batch_tokens: of a step, where the study says so itself; rounded down to whole sequences, at least one.
    """
    shortest = min(horizons) * parameters
    if batch_tokens is not None:
        batch = max(1, batch_tokens // sequence_length)
    else:
        wanted = min(wanted_batch_tokens(max(horizons) * parameters), shortest / LEAST_STEPS)
        batch = 2 ** max(0, math.floor(math.log2(wanted / sequence_length)))  # a power of two can be shared among ranks
    warmup_tokens = min(parameters, WARMUP_SHARE * shortest)
    warmup = max(1, round(warmup_tokens / (batch * sequence_length)))
    return Recipe(parameters, sequence_length, batch, warmup)


def wanted_batch_tokens(tokens: float) -> float:
    """Rule (1): tokens a step for a run of so many tokens, not rounded."""
    return BATCH_ANCHOR_TOKENS * (tokens / BATCH_ANCHOR_HORIZON) ** BATCH_EXPONENT


def evaluated_alike(recipes: Mapping[str, Recipe], sequences: int) -> dict[str, Recipe]:
    """Rule (5): recipes by size, each with the batches that make up the same sequences of validation text, at least so many."""
    largest = max(recipe.batch for recipe in recipes.values())
    whole = math.ceil(sequences / largest) * largest
    return {size: replace(recipe, evaluation_batches=math.ceil(whole / recipe.batch)) for size, recipe in recipes.items()}


def transferred(rule: TransferRule, learning_rate: float, parameters: int, tuned: int, exponent: float) -> float:
    """A tuned learning rate at another size.

    mup: as it is; the maximal update parametrization scales what each matrix takes of it with width (Yang et al., arXiv
    2203.03466). power_law: times (N / N tuned)^exponent, as the rates that Porian et al. (arXiv 2406.19146) fitted fall with
    size. constant: as it is.
    """
    return learning_rate * (math.pow(parameters / tuned, exponent) if rule == "power_law" else 1.0)


def derivation(recipe: Recipe, horizons: Sequence[float], given: bool) -> list[str]:
    """The numbered steps with the numbers of one size, a sentence each; ``given``: the study sets the batch."""
    n, longest, shortest = recipe.parameters, max(horizons), min(horizons)
    tokens = longest * n
    if given:
        first = f"(1) batch_tokens is given: {recipe.batch} x {recipe.sequence_length} = {recipe.batch_tokens:,} tokens a step"
    else:
        first = (
            f"(1) D = {longest:g} x {n:,} = {tokens:.3g} tokens at the longest horizon: B = {BATCH_ANCHOR_TOKENS:,} (D / "
            f"{BATCH_ANCHOR_HORIZON:.0e})^{BATCH_EXPONENT} = {wanted_batch_tokens(tokens):,.0f} tokens; (2) at most "
            f"{shortest * n / LEAST_STEPS:,.0f}, for {LEAST_STEPS} steps at the shortest; the power of two of sequences below "
            f"is {recipe.batch} x {recipe.sequence_length} = {recipe.batch_tokens:,} tokens a step"
        )
    cap = WARMUP_SHARE * shortest * n
    warmup = (
        f"(3) warm-up: the smaller of N = {n:,} and {WARMUP_SHARE:.0%} of the shortest horizon = {cap:,.0f} tokens: "
        f"{recipe.warmup_steps} steps, in trunk and branches"
    )
    ends = ", ".join(f"{h:g}: {recipe.steps(h):,} steps, from {recipe.decay_begins(h):,} on" for h in sorted(horizons))
    decay = f"(4) linear decay to zero over the last {DECAY_FRACTION:.0%}, by tokens a parameter: {ends}"
    evaluation = f"(5) evaluated on {recipe.evaluation_batches} x {recipe.batch} sequences of the validation split"
    return [first, warmup, decay, evaluation]


def _steps(parameters: int, horizon: float, batch_tokens: int) -> int:
    return max(1, round(horizon * parameters / batch_tokens))
