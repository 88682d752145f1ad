"""Norms of ours in the places of others': what is kept, what is read without a name, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibnorm_megatron.norms import (
    IBBatchNorm,
    IBGroupNorm,
    IBNorm,
    LayerNorm,
    RMSNorm,
    convert_norms,
    norm_names,
    parse_norm,
)


class Rows(nn.Module):
    """An RMSNorm, LayerNorm or neither, as libraries write them."""

    def __init__(self, width: int, *, center: bool = False, offset: float = 0.0, power: float = 0.5, **values: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) - offset)
        self.center, self.offset, self.power = center, offset, power
        for name, value in values.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        eps = next(getattr(self, name) for name in ("variance_epsilon", "tiny", "eps") if hasattr(self, name))
        wide = x if x.dtype == torch.float64 else x.float()
        c = wide - (wide.mean(-1, keepdim=True) if self.center else 0.0)
        return (c * (c.square().mean(-1, keepdim=True) + eps) ** -self.power).to(x.dtype) * (self.offset + self.weight)


class OverSecond(Rows):
    """A norm over the second dimension, which is the last where there are two."""

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt() * self.weight.view(shape)


class Gated(Rows):
    """A norm with a second input."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if gate is None else y * gate


class Model(nn.Module):
    """Every kind of norm once, one of them at two places, and a container."""

    def __init__(self) -> None:
        super().__init__()
        self.images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3, momentum=0.2), nn.GroupNorm(2, 8))
        self.first = nn.LayerNorm(8, eps=1e-6)
        self.again = self.first
        self.second = nn.RMSNorm(8)
        self.plain = nn.LayerNorm(8, elementwise_affine=False)
        self.unbiased = nn.LayerNorm(8, bias=False)
        self.foreign = nn.ModuleDict({"rms": Rows(8, variance_epsilon=1e-4), "layer": Rows(8, center=True, eps=1e-2)})
        self.line = nn.BatchNorm1d(8, affine=False, momentum=None)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.7)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.images(x).flatten(2).transpose(1, 2)
        for norm in (self.first, self.second, self.plain, self.again, self.unbiased, *self.foreign.values()):
            rows = rows + norm(rows)
        return self.line(rows.mean(1))


EVERYTHING = dict.fromkeys((nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d, nn.GroupNorm, Rows, nn.BatchNorm1d), "ibnorm_identity")


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def _images(seed: int = 0, count: int = 5) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_identity_leaves_outputs_gradients_and_statistics_equal(model: Model) -> None:
    ours = copy.deepcopy(model.double())
    convert_norms(ours, EVERYTHING)
    for step, training in enumerate((True, False, True)):
        found = []
        for each in (model.train(training), ours.train(training)):
            each.zero_grad()
            y = each(_images(step).double())
            (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
            found.append([y.detach(), *(parameter.grad for parameter in each.parameters())])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)
    state = ours.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-12, atol=1e-12)
    added = set(state) - set(model.state_dict())
    assert added == {"images.1.running_compressed_mean", "line.running_compressed_mean"}


def test_the_report_names_places_old_and_new(model: Model) -> None:
    report = convert_norms(model, EVERYTHING)
    assert [one.names for one in report] == [
        ("images.1",), ("images.2",), ("first", "again"), ("second",), ("plain",), ("unbiased",),
        ("foreign.rms",), ("foreign.layer",), ("line",),
    ]  # fmt: skip
    assert str(report[2]).startswith("first, again: LayerNorm((8,), eps=1e-06, elementwise_affine=True")
    assert " -> IBNorm(8, eps=1e-06, bias=True, center=True, identity" in str(report[2])
    assert model.first is model.again
    assert isinstance(model.images[1], IBBatchNorm) and isinstance(model.images[2], IBGroupNorm)
    assert model.images[1].momentum == 0.2 and model.line.momentum is None
    shapes = {name: (norm.eps, norm.center, norm.weight is not None, norm.bias is not None)
              for name, norm in model.named_modules() if isinstance(norm, IBNorm)}  # fmt: skip
    assert shapes == {
        "images.1": (1e-3, True, True, True),
        "images.2": (1e-5, True, True, True),
        "first": (1e-6, True, True, True),
        "second": (torch.finfo(torch.float32).eps, False, True, False),
        "plain": (1e-5, True, False, False),
        "unbiased": (1e-5, True, True, False),
        "foreign.rms": (1e-4, False, True, False),
        "foreign.layer": (1e-2, True, True, False),
        "line": (1e-5, True, False, False),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_mode_and_type_stay(model: Model, dtype: torch.dtype) -> None:
    model.to(dtype).eval()
    model.images.train()
    model.first.weight.requires_grad_(False)
    model.second.weight.requires_grad_(False)
    model.foreign["rms"].weight = model.unbiased.weight  # tied
    before = {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    learned = {"kind": "ibnorm_log", "strength": "learnable", "bias": True}
    convert_norms(model, EVERYTHING | {nn.RMSNorm: learned})
    found = dict(model.named_parameters())
    assert {name: (id(found[name]), found[name].requires_grad) for name in before} == before
    assert set(found) - set(before) == {"second.bias", "second.log_lambda"}
    assert found["second.log_lambda"].requires_grad
    assert not found["second.bias"].requires_grad and not found["second.bias"].any()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {value.dtype for name, value in model.state_dict().items() if "batches" not in name} == {dtype}
    assert model(_images().to(dtype)).dtype == dtype


def test_what_a_config_says_counts_and_the_rest_is_the_old_norms(model: Model) -> None:
    mapping = {
        "first": {"kind": "rmsnorm", "bias": False},
        "second": {"kind": "ibnorm_tanh", "center": True, "eps": 0.5},
        "unbiased": "layernorm",
        "foreign.*": parse_norm({"kind": "ibnorm_log", "lambda": 2.0}),
        lambda name, module: isinstance(module, nn.BatchNorm2d): {"kind": "ibnorm_tanh", "scale": "relative"},
    }
    convert_norms(model, mapping)
    first, second, rms = model.first, model.second, model.foreign["rms"]
    assert (type(first), first.eps, first.center, first.bias) == (RMSNorm, 1e-6, False, None)
    assert (second.eps, second.center, second.bias) == (0.5, True, None)
    assert (type(model.unbiased), model.unbiased.bias) == (LayerNorm, None)
    assert (rms.compression, rms.lam, rms.eps, rms.center) == ("log", 2.0, 1e-4, False)
    assert (model.images[1].scale, model.images[1].eps) == ("relative", 1e-3)
    assert type(model.plain) is nn.LayerNorm


def test_the_first_key_that_fits_counts(model: Model) -> None:
    convert_norms(model, {"unbiased": "layernorm", nn.LayerNorm: "ibnorm_log"})
    assert type(model.unbiased) is LayerNorm and type(model.first) is IBNorm


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_a_trained_batch_norm_goes_on_from_its_statistics(scale: str) -> None:
    old = nn.Sequential(nn.BatchNorm1d(4, eps=1e-9))
    for seed in range(50):
        old(torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 2)
    new = copy.deepcopy(old)
    convert_norms(new, {nn.BatchNorm1d: {"kind": "ibnorm_identity", "scale": scale}})
    x = torch.randn(8, 4) * 3 + 2
    torch.testing.assert_close(new.eval()(x), old.eval()(x), rtol=1e-5, atol=1e-5)
    compressed = copy.deepcopy(old)
    convert_norms(compressed, {nn.BatchNorm1d: {"kind": "ibnorm_log", "lambda": 1.0, "scale": scale}})
    assert torch.equal(compressed[0].running_mean, old[0].running_mean)
    compressed[0].momentum = None
    compressed[0].num_batches_tracked.zero_()
    x = torch.randn(4096, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    trained = compressed.train()(x)
    torch.testing.assert_close(compressed.eval()(x), trained, rtol=1e-3, atol=1e-3)  # the batch's own statistics


def test_a_frozen_batch_norm_stays_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    model[0].track_running_stats = False  # with statistics there: used in evaluation, and not followed
    convert_norms(model, {nn.BatchNorm1d: "ibnorm_log"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(8, 4) + 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_state_goes_through_a_file(model: Model, tmp_path: Path) -> None:
    mapping = EVERYTHING | {nn.BatchNorm2d: {"kind": "ibnorm_log", "scale": "relative"}, nn.RMSNorm: "ibnorm_tanh"}
    convert_norms(model, mapping)
    model(_images())
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(1)
    other = Model()
    convert_norms(other, mapping)
    assert not torch.equal(other.eval()(_images(1)), model.eval()(_images(1)))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.eval()(_images(1)), model.eval()(_images(1)))


def test_state_of_the_model_before_fits_norms_over_rows(model: Model) -> None:
    before = copy.deepcopy(model.state_dict())
    convert_norms(model, {nn.LayerNorm: "ibnorm_log", nn.RMSNorm: "ibnorm_tanh", Rows: "ibnorm_softsign"})
    model.load_state_dict(before)  # strictly
    assert torch.equal(model.second.weight, before["second.weight"])


def test_a_gain_of_one_plus_weight_is_seen_and_kept_where_ours_has_it() -> None:
    model = nn.Sequential(Rows(8, offset=1.0, eps=1e-6))
    expected = model(_images().flatten(2)[..., :8])
    with pytest.raises(ValueError, match="its gain is 1 \\+ weight, and that of the new norm weight; map it to rmsnorm"):
        convert_norms(model, {Rows: "ibnorm_identity"})
    convert_norms(model, {Rows: {"kind": "rmsnorm", "unit_offset": True}})
    torch.testing.assert_close(model(_images().flatten(2)[..., :8]), expected, rtol=2e-6, atol=2e-6)


def test_trying_a_layer_leaves_no_trace() -> None:
    model = nn.Sequential(Rows(8, eps=1e-6))
    weight, state = model[0].weight.clone(), torch.get_rng_state()
    convert_norms(model, {Rows: "rmsnorm"})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[0].weight, weight) and model[0].weight.grad is None


def test_eps_is_found_or_named() -> None:
    for values, name in (({"tiny": 1e-3}, "tiny"), ({"eps": 1e-3, "variance_epsilon": 1e-6}, "variance_epsilon")):
        model = nn.Sequential(Rows(8, **values))
        with pytest.raises(ValueError, match="its eps is not clear"):
            convert_norms(model, {Rows: "rmsnorm"})
        convert_norms(model, {Rows: "rmsnorm"}, eps_name=name)
        assert model[0].eps == values[name]


@pytest.mark.parametrize("name", norm_names())
def test_every_norm_is_built_with_the_old_weights_or_refused(name: str) -> None:
    model = nn.Sequential(nn.LayerNorm(8, eps=1e-3))
    weight, bias = model[0].weight, model[0].bias
    if name in ("none", "scale", "l2norm"):
        with pytest.raises(ValueError, match=f"0 is LayerNorm.*gain .* in {name}"):
            convert_norms(model, {nn.LayerNorm: name})
        assert type(model[0]) is nn.LayerNorm
        return
    convert_norms(model, {nn.LayerNorm: name})
    assert model[0].weight is weight and model[0].bias is bias and getattr(model[0], "eps", 1e-3) == 1e-3
    assert torch.isfinite(model(torch.randn(3, 8))).all()


def _hooked() -> nn.Module:
    norm = nn.LayerNorm(8)
    norm.register_forward_hook(lambda *_: None)
    return norm


def _replaced() -> nn.Module:
    norm = nn.LayerNorm(8)
    norm.forward = lambda x: x
    return norm


def _buffered() -> nn.Module:
    norm = Rows(8, eps=1e-6)
    norm.register_buffer("counted", torch.zeros(1))
    return norm


REFUSED = [
    (nn.LayerNorm((4, 8)), "it norms over the last 2 dimensions, and ours over one"),
    (nn.Linear(8, 8), "one vector 'weight' and perhaps 'bias' as parameters, and it has bias, weight"),
    (nn.ReLU(), "and it has none"),
    (nn.InstanceNorm1d(8, affine=True), "cannot be tried with rows of 8 (ValueError: expected input's size"),
    (nn.SyncBatchNorm(8), "it holds other modules or buffers"),
    (nn.LazyBatchNorm1d(), "it has no weights before its first input"),
    (nn.utils.parametrizations.weight_norm(nn.LayerNorm(8)), "computed by a parametrization"),
    (_hooked(), "it has hooks or a forward of its own"),
    (_replaced(), "it has hooks or a forward of its own"),
    (_buffered(), "it holds other modules or buffers"),
    (Rows(8, eps=1e-6, power=0.25), "computes neither LayerNorm nor RMSNorm over the last dimension with eps 1e-06"),
    (Rows(8, eps=1e-6, variance_epsilon=1e-6, center=True, power=1.0), "computes neither LayerNorm nor RMSNorm"),
    (Rows(8, eps=1e-5, tiny=1e-6), "computes neither LayerNorm nor RMSNorm over the last dimension with eps 1e-05"),
    (OverSecond(8, eps=1e-6), "cannot be tried with rows of 8 (RuntimeError"),
    (OverSecond(3, eps=1e-6), "computes neither LayerNorm nor RMSNorm"),
    (Gated(8, eps=1e-6), "its forward takes x, gate, and ours one tensor"),
    (Rows(8), "its eps is not clear, with no number among eps, variance_epsilon, epsilon"),
    (Rows(8, eps=1e-6).to("meta"), "its weights are on the meta device"),
    (nn.LayerNorm(8, eps=0.0), "its eps is 0, and ours have to be positive"),
]


@pytest.mark.parametrize(("norm", "says"), REFUSED, ids=[says[:40] for _, says in REFUSED])
def test_what_cannot_be_replaced_is_refused(norm: nn.Module, says: str) -> None:
    model = nn.ModuleDict({"before": nn.LayerNorm(8), "norm": norm})
    with pytest.raises(ValueError, match=r"^norm is ") as refused:
        convert_norms(model, {"before": "ibnorm_log", "norm": "ibnorm_log"})
    (sentence,) = str(refused.value).splitlines()
    assert says in sentence and sentence.endswith(".")
    assert model["norm"] is norm and type(model["before"]) is nn.LayerNorm


@pytest.mark.parametrize(
    ("norm", "becomes", "says"),
    [
        (nn.BatchNorm2d(8), "layernorm", "norms over batch and space, and layernorm has no such form; map it to an ibnorm"),
        (nn.GroupNorm(2, 8), "rmsnorm", "norms over groups of channels and space, and rmsnorm has no such form"),
        (nn.BatchNorm2d(8), {"kind": "ibnorm_log", "center": False}, "center is false: statistics over batch"),
        (nn.LayerNorm(8, elementwise_affine=False), "dyt", "it has no gain, and dyt always has one"),
        (nn.LayerNorm(8, elementwise_affine=False), {"kind": "rmsnorm", "unit_offset": True}, "it has no gain"),
        (
            nn.LayerNorm(8),
            {"kind": "rmsnorm", "unit_offset": True},
            "its gain would mean something else in rmsnorm(bias=True, unit_off",
        ),
    ],
)
def test_a_norm_that_does_not_fit_a_place_is_refused(norm: nn.Module, becomes: Any, says: str) -> None:
    model = nn.ModuleDict({"norm": norm})
    with pytest.raises(ValueError, match=r"^norm is ") as refused:
        convert_norms(model, {"norm": becomes})
    assert says in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert model["norm"] is norm


def test_keys_are_checked_all_at_once(model: Model) -> None:
    mapping = {
        "firts": "ibnorm_log",
        Gated: "ibnorm_log",
        nn.LayerNorm: "ibnorm_lag",
        7: "ibnorm_log",
        nn.RMSNorm: {"kind": "ibnorm_log", "lambda": -1.0},
        "second": "rmsnorm",
        "images.0": "ibnorm_log",
    }
    with pytest.raises(ValueError, match="firts") as refused:
        convert_norms(model, mapping)
    said = str(refused.value).splitlines()
    assert [sentence.split(":")[0] for sentence in said] == [
        "the norm for LayerNorm is 'ibnorm_lag'",
        "the key 7 is none; give a class, a pattern for names, or a function of name and module.",
        "the norm for RMSNorm is {'kind'",
        "the key 'firts' fits nothing in the model that an earlier key leaves; mend it, or take it out.",
        "the key Gated fits nothing in the model that an earlier key leaves; mend it, or take it out.",
        "images.0 is Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))",
    ]
    assert type(model.second) is nn.RMSNorm


def test_a_shared_norm_cannot_become_two(model: Model) -> None:
    with pytest.raises(ValueError, match="it stands at first and again too, with another norm; give both the same"):
        convert_norms(model, {"first": "ibnorm_log", "again": "layernorm"})


def test_a_norm_alone_is_no_model() -> None:
    with pytest.raises(ValueError, match=r"the model itself is LayerNorm.*nothing around it"):
        convert_norms(nn.LayerNorm(8), {nn.LayerNorm: "ibnorm_log"})
