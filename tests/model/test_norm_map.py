"""Which norm stands where: patterns, placements, and what of them is refused."""

from __future__ import annotations

import pytest

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.model.config import ModelConfig


def _config(*overrides: str) -> Config:
    return load_config("configs/tiny_llama.yaml", ["model.num_layers=3", *overrides])


def _labels(*overrides: str) -> dict[str, str]:
    return {str(site): norm.label() for site, norm in _config(*overrides).model.norm_sites().items()}


def test_patterns_choose_by_site_and_layer() -> None:
    text = "{default: rmsnorm, final: layernorm, layers.0-1.attn_in: ibnorm_tanh, layers.2: ibnorm_log, embedding: layernorm}"
    assert _labels(f"model.norm={text}") == {
        "embedding": "layernorm",
        "layers.0.attn_in": "ibnorm_tanh",
        "layers.0.mlp_in": "rmsnorm",
        "layers.1.attn_in": "ibnorm_tanh",
        "layers.1.mlp_in": "rmsnorm",
        "layers.2.attn_in": "ibnorm_log",
        "layers.2.mlp_in": "ibnorm_log",
        "final": "layernorm",
    }


@pytest.mark.parametrize(
    ("placement", "sites"),
    [
        ("pre", ["attn_in", "mlp_in", "final"]),
        ("post", ["attn_out", "mlp_out"]),
        ("peri", ["attn_in", "attn_out", "mlp_in", "mlp_out", "final"]),
        ("sub", ["attn_in", "attn_sub", "mlp_in", "mlp_sub", "final"]),
        ("output", ["attn_out", "mlp_out", "final"]),
    ],
)
def test_placements_have_their_sites(placement: str, sites: list[str]) -> None:
    found = _labels("model.num_layers=1", f"model.norm_placement={placement}")
    assert [name.removeprefix("layers.0.") for name in found] == sites


def test_a_named_site_is_added_and_none_takes_one_away() -> None:
    found = _labels("model.num_layers=1", "model.norm={default: rmsnorm, mlp_sub: layernorm, attn_in: none}")
    assert found == {"layers.0.mlp_in": "rmsnorm", "layers.0.mlp_sub": "layernorm", "final": "rmsnorm"}


def test_an_option_without_default_is_in_the_label() -> None:
    assert set(_labels("plugins=[tests/checks/broken_norms.py]", "model.norm={kind: demanding, power: 0.5}").values()) == {
        "demanding(power=0.5)"
    }


def test_widths_are_those_of_what_is_normed() -> None:
    model = _config("model.norm_placement=sub", "model.qk_norm=full").model
    widths = {site.name: model.norm_width(site) for site in model.norm_sites()}
    expected = {"attn_in": 64, "q": 64, "k": 32, "attn_sub": 64, "mlp_in": 64, "mlp_sub": 176, "final": 64}
    assert widths == expected
    per_head = _config("model.qk_norm=true").model
    assert {per_head.norm_width(site) for site in per_head.norm_sites() if site.name in ("q", "k")} == {16}


def test_a_map_is_written_as_it_is_read() -> None:
    for norm in ("ibnorm_log", "{default: rmsnorm, layers.0-1: {kind: ibnorm, lambda: 2.0}}"):
        model = _config(f"model.norm={norm}").model
        assert ModelConfig.model_validate(model.model_dump(mode="json", by_alias=True)) == model
    assert "default" not in _config("model.norm=ibnorm_log").to_dict()["model"]["norm"]


REFUSED = {
    "a layer that is not there": (["model.norm={default: rmsnorm, layers.1-3.attn_in: layernorm}"], ["layers 0 to 2"]),
    "layers backwards": (["model.norm={default: rmsnorm, layers.2-1: layernorm}"], ["the lower one first"]),
    "an overlap": (
        ["model.norm={default: rmsnorm, attn_in: layernorm, layers.1: ibnorm_log}"],
        ["model.norm.layers.1 is ibnorm_log: model.norm.attn_in names layers.1.attn_in too"],
    ),
    "an unknown site": (["model.norm={default: rmsnorm, atn_in: layernorm}"], ["'atn_in' is no site"]),
    "a model site in a layer": (["model.norm={default: rmsnorm, layers.0.final: layernorm}"], ["'layers.0.final' is no site"]),
    "no q norm": (["model.norm={default: rmsnorm, q: layernorm}"], ["model.qk_norm is none"]),
    "nothing to take away": (["model.norm={default: rmsnorm, attn_sub: none}"], ["has no norm there"]),
    "two compressions": (["model.norm={kind: ibnorm_log, compression: tanh}"], ["says its compression by its name"]),
    "several": (
        ["model.norm={default: rmsnrm, final: {kind: layernorm, lamda: 2}, layers.9: ibnorm_x}"],
        ["did you mean 'rmsnorm'?", "model.norm.final is", "no option 'lamda'", "model.norm.layers.9 is 'ibnorm_x'"],
    ),
    "a site behind a dot": (["model.norm={default: rmsnorm, .attn_in: layernorm}"], ["'.attn_in' is no site"]),
    "a map without default": (["model.norm={final: layernorm}"], ["neither kind nor default"]),
    "both names of an option": (["model.norm={kind: ibnorm, lam: 2, lambda: 3}"], ["model.norm.lam is 2", "take it out"]),
    "a plugin's option without default": (
        ["plugins=[tests/checks/broken_norms.py]", "model.norm=demanding"],
        ["model.norm.power is missing: it has no default"],
    ),
    "an unknown placement": (["model.norm_placement=pri"], ["model.norm_placement is 'pri'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_by_name(case: str) -> None:
    overrides, says = REFUSED[case]
    with pytest.raises(UserError) as refused:
        _config(*overrides)
    for text in says:
        assert text in str(refused.value)


def test_a_norm_that_cannot_take_sharded_columns_is_refused_where_they_are() -> None:
    from ..checks.test_check_norm import PLUGIN

    given = [f"plugins=[{PLUGIN}]", "model.norm={default: rmsnorm, mlp_sub: unsharded}"]
    _config(*given)
    with pytest.raises(UserError, match=r"unsharded: layers\.0\.mlp_sub, whose columns parallel\.tensor 2 spreads"):
        _config(*given, "parallel.tensor=2")


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ("[nowhere.py]", "there is no such Python file"),
        ("{a: b}", "it is no list of Python files"),
        ("[~nobody-has-this-name/norms.py]", "there is no such Python file"),
        ('["\\0.py"]', "there is no such Python file"),
        (f"[{'n' * 5000}.py]", "there is no such Python file"),
        ("[tests/model/plugin_that_exits.py]", "it cannot be imported (SystemExit: 0)"),
        ("[tests/model/plugin_that_raises.py]", "it cannot be imported (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_plugin_that_cannot_be_read_is_refused(plugins: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        _config(f"plugins={plugins}", "train.steps=x")
    assert says in str(refused.value)
    assert "train.steps is 'x'" in str(refused.value)
