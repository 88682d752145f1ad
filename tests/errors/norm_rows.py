"""Norms: names, options, and where they stand."""

from __future__ import annotations

from .rows import Row

NORMS: tuple[Row, ...] = (
    Row(
        "an unknown norm",
        "ibnorm train tiny.yaml model.norm=rmsnrm",
        ("model.norm is 'rmsnrm': there is no norm named 'rmsnrm'; did you mean 'rmsnorm'?",),
    ),
    Row(
        "an unknown option",
        "ibnorm train tiny.yaml model.norm=ibnorm_log model.norm.lamda=2",
        ("model.norm is set so: ibnorm has no option 'lamda'; did you mean 'lambda'?",),
    ),
    Row(
        "an option of another norm",
        "ibnorm train tiny.yaml model.norm=rmsnorm model.norm.alpha=2",
        ("model.norm is set so: rmsnorm has no option 'alpha'; choose one of kind, eps, bias, center, unit_offset.",),
    ),
    Row(
        "no kind",
        "ibnorm train tiny.yaml 'model.norm={lambda: 2}'",
        (
            "model.norm is set so: it has neither kind nor default; write the kind of one norm, or the default of a map by site and layer.",
        ),
    ),
    Row(
        "a list for a norm",
        "ibnorm train tiny.yaml 'model.norm=[rmsnorm]'",
        (
            "model.norm is ['rmsnorm']: a norm is a name or a mapping with a kind; choose one of none, layernorm, rmsnorm, ibnorm, scale, dyt, derf, normalnorm, layernorm_scaling, l2norm, batchnorm, ibnorm_identity, ibnorm_linear, ibnorm_log, ibnorm_tanh, ibnorm_softsign, ibnorm_asinh, ibnorm_s, ibnorm_l, ibnorm_t.",
        ),
    ),
    Row(
        "an unknown compression",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm, compression: lag}'",
        ("model.norm.compression is 'lag': there is no compression named 'lag'; did you mean 'log'?",),
    ),
    Row(
        "two compressions",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm_log, compression: tanh}'",
        (
            "model.norm is set so: ibnorm_log says its compression by its name; leave the option compression out, or use kind ibnorm.",
        ),
    ),
    Row(
        "a negative lambda",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm_log, lambda: -1}'",
        ("model.norm.lambda is -1: input should be greater than 0; give it such a value.",),
    ),
    Row(
        "the literal form with a small lambda",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm, lambda: 0.5, form: literal}'",
        (
            "model.norm is set so: lambda 0.5 is below 1, where the literal form is unbounded; use lambda >= 1 or form unit_slope.",
        ),
    ),
    Row(
        "an unknown scale",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm_log, scale: relativ}'",
        ("model.norm.scale is 'relativ': input should be 'absolute' or 'relative'; give it such a value.",),
    ),
    Row(
        "a ramp without a schedule",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm_log, ramp: 0.5}'",
        ("model.norm is set so: ramp has no effect where strength is fixed; set strength scheduled or leave ramp out.",),
    ),
    Row(
        "a scheduled literal form",
        "ibnorm train tiny.yaml 'model.norm={kind: ibnorm_log, strength: scheduled, form: literal}'",
        (
            "model.norm is set so: strength scheduled starts at a huge lambda, where eps drowns the literal form; use form unit_slope.",
        ),
    ),
    Row(
        "an unknown site",
        "ibnorm train tiny.yaml 'model.norm={default: rmsnorm, attn_inn: layernorm}'",
        (
            "model.norm is set so: 'attn_inn' is no site; write default, a site (attn_in, q, k, attn_sub, attn_out, mlp_in, mlp_sub, mlp_out, embedding, final), layers.0-3 or layers.0-3.attn_in.",
        ),
    ),
    Row(
        "layers that are not there",
        "ibnorm train tiny.yaml 'model.norm={default: rmsnorm, layers.0-7: layernorm}'",
        ("model.norm.layers.0-7 is layernorm: the model has layers 0 to 1; name layers among them, the lower one first.",),
    ),
    Row(
        "a norm on queries that have none",
        "ibnorm train tiny.yaml 'model.norm={default: rmsnorm, q: layernorm}'",
        (
            "model.norm.q is layernorm: model.qk_norm is none, so there is no norm on queries and keys; set model.qk_norm to per_head or full.",
        ),
    ),
    Row(
        "two norms at one site",
        "ibnorm train tiny.yaml 'model.norm={default: rmsnorm, attn_in: layernorm, layers.0: ibnorm_log}'",
        (
            "model.norm.layers.0 is ibnorm_log: model.norm.attn_in names layers.0.attn_in too; let every site match one pattern at most.",
        ),
    ),
    Row(
        "nothing to take away",
        "ibnorm train tiny.yaml 'model.norm={default: rmsnorm, attn_sub: none}'",
        ("model.norm.attn_sub is none: model.norm_placement pre has no norm there that could be taken away; leave it out.",),
    ),
    Row(
        "an unknown placement",
        "ibnorm train tiny.yaml model.norm_placement=before",
        ("model.norm_placement is 'before': input should be 'pre', 'post', 'peri', 'sub' or 'output'; give it such a value.",),
    ),
    Row(
        "depth that is scaled twice",
        "ibnorm train tiny.yaml model.norm=layernorm_scaling",
        (
            "model.scale_residual_init is true: layernorm_scaling shrinks what a layer adds with its depth already, and its paper found both together worse; set model.scale_residual_init=false.",
        ),
    ),
    Row(
        "noise that stages would draw again",
        "ibnorm train tiny.yaml model.norm=normalnorm parallel.pipeline=2 parallel.recompute=full",
        (
            "model.norm is normalnorm: it draws noise, and a stage of parallel.pipeline 2 computes a layer again after it drew for other tokens; set parallel.recompute to none or selective, or its noise to 0.",
        ),
    ),
)
