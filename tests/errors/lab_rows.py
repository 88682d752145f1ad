"""Studies: their own fields, arms and sizes that no run can have, and designs that are unfair."""

from __future__ import annotations

from .mischief import file
from .rows import Before, Row

_SIZE = "num_layers: 2, hidden_size: {width}, num_attention_heads: {heads}, ffn_hidden_size: 88"


def _study(*changes: tuple[str, str]) -> Before:
    """A study of two arms and two sizes beside ``tiny.yaml``, with texts replaced."""
    text = f"""name: mine
base: tiny.yaml
arms: {{layernorm: layernorm, identity: ibnorm_identity, log: ibnorm_log}}
baseline: layernorm
control: identity
sizes:
  s: {{{_SIZE.format(width=32, heads=2)}}}
  m: {{{_SIZE.format(width=64, heads=4)}}}
horizons: [5, 20]
seeds: [1, 2, 3]
tuning: {{seeds: [7], learning_rates: [1e-3, 2e-3, 4e-3]}}
"""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return file("study.yaml", text)


_PLAN = "ibnorm lab plan study.yaml --no-calibrate"
_ALLOW = "or name it in allow: [{name}], and the report says so in red."

LAB: tuple[Row, ...] = (
    Row(
        "no such study",
        "ibnorm lab plan nowhere.yaml",
        (
            "the study is nowhere.yaml: it cannot be read (No such file or directory); give the path of a YAML file, such as configs/studies/small.yaml.",
        ),
    ),
    Row(
        "a config for a study",
        "ibnorm lab plan tiny.yaml",
        (
            "the study is tiny.yaml: it is the config of a run; write a study that names it in base, such as configs/studies/small.yaml.",
        ),
    ),
    Row(
        "several things wrong with a study",
        f"{_PLAN} control=nobody transfer.check_seeds=[9]",
        (
            "control is 'nobody': there is no such arm; choose one of layernorm, identity, log.",
            "transfer.check_seeds is [9]: no run at the transferred rate has the seed 9, so there is nothing to compare with; choose among seeds.",
        ),
        _study(),
    ),
    Row(
        "an arm of no norm",
        _PLAN,
        ("arms.log.norm is 'ibnorm_lgo': there is no norm named 'ibnorm_lgo'; did you mean 'ibnorm_log'?",),
        _study(("log: ibnorm_log", "log: ibnorm_lgo")),
    ),
    Row(
        "an arm that no run can have",
        _PLAN,
        (
            "model.norm.q of arm log is layernorm: model.qk_norm is none, so there is no norm on queries and keys; set model.qk_norm to per_head or full.",
        ),
        _study(("log: ibnorm_log", "log: {default: ibnorm_log, q: layernorm}")),
    ),
    Row(
        "a lambda of a norm without one",
        _PLAN,
        ("arms.log.lambdas is [2.0]: rmsnorm has no lambda; leave them out.",),
        _study(("log: ibnorm_log", "log: {norm: rmsnorm, lambdas: [2]}"), ("seeds: [7]", "further_trials: 1, seeds: [7]")),
    ),
    Row(
        "a size that no run can have",
        f"{_PLAN} transfer.rule=constant",
        ("model of size m is set so: hidden_size 64 is not divisible by num_attention_heads 5; change one of them.",),
        _study(("num_attention_heads: 4", "num_attention_heads: 5")),
    ),
    Row(
        "heads of other widths under muP",
        _PLAN,
        (
            "sizes.m.num_attention_heads is 2: its heads are 32 wide and those of the tuned size 16, and muP transfers between equal ones; set it to 4, or choose another transfer.rule.",
        ),
        _study(("num_attention_heads: 4", "num_attention_heads: 2")),
    ),
    Row(
        "an override of what a study decides",
        f"{_PLAN} 'overrides=[train.lr=1e-3]'",
        (
            "overrides is 'train.lr=1e-3': a study sets this field itself; take it out; what a study tunes, sizes and decides by rule stands in its own fields.",
        ),
        _study(),
    ),
    Row(
        "a grid with a gap",
        f"{_PLAN} 'tuning.learning_rates=[1e-3, 2e-3, 8e-3]'",
        (
            "tuning.learning_rates is [0.001, 0.002, 0.008]: neighbours differ by factors from 2 to 4, so where it is coarse nobody looks; give rates in equal ratios, such as 1e-3, 2e-3, 4e-3.",
        ),
        _study(),
    ),
    Row(
        "no control and few seeds",
        f"{_PLAN} control=null 'seeds=[1, 2]'",
        (
            "the design is unfair (no_control): no arm is the baseline by another code path, so nobody knows the noise of the comparison itself; add an arm of norm ibnorm_identity and name it in control; "
            + _ALLOW.format(name="no_control"),
            "the design is unfair (few_seeds): there are 2 seeds, and differences of this size come and go with the seed; give 3 or more; "
            + _ALLOW.format(name="few_seeds"),
        ),
        _study(),
    ),
    Row(
        "a control that is another norm",
        f"{_PLAN} control=log",
        (
            "the design is unfair (no_control): log is another norm than layernorm, not the same by another code path, so nobody knows the noise of the comparison itself; name the arm in control that is the baseline by other code, as ibnorm_identity is; "
            + _ALLOW.format(name="no_control"),
        ),
        _study(),
    ),
    Row(
        "a transfer that is checked on one side",
        f"{_PLAN} transfer.check_factors=[2]",
        (
            "the design is unfair (unchecked_transfer): whether the transferred learning rate is near the best at m is checked on one side only; give transfer.check_factors below 1 and above; "
            + _ALLOW.format(name="unchecked_transfer"),
        ),
        _study(),
    ),
    Row(
        "a launcher that is not told what to train",
        f"{_PLAN} 'launcher.command=[sbatch, train.sh]'",
        (
            "launcher.command is ['sbatch', 'train.sh']: no word of it holds {config}, so no run would know what it is to train; put '{config}' where it belongs.",
        ),
        _study(),
    ),
    Row(
        "a tuning horizon of no steps",
        f"{_PLAN} tuning.horizon=1e-6",
        (
            "tuning.horizon is 1e-06: at s it is 1 steps of <so many> tokens; give a longer one, a larger size, or less batch_tokens.",
        ),
        _study(),
    ),
    Row(
        "a lambda that is tuned for one arm only",
        _PLAN,
        (
            "the design is unfair (one_arms_lambda): log gets 2 trials of lambda after the grid, and layernorm, identity only 0 of its learning rate; set tuning.further_trials to 2; "
            + _ALLOW.format(name="one_arms_lambda"),
        ),
        _study(("log: ibnorm_log", "log: {norm: ibnorm_log, lambdas: [2, 8]}")),
    ),
    Row(
        "an option of a plan without effect",
        "ibnorm lab plan study.yaml --speed 1e9",
        ("--speed is 1e+09: steps are measured, and nothing goes by it; add --no-calibrate or leave it out.",),
        _study(),
    ),
)
