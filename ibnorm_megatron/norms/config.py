"""The typed config of a norm, and the registry of norms by name.

``model.norm`` in a config is a name (``rmsnorm``, ``layernorm``, ``ibnorm_log``, ...) or a mapping whose ``kind`` is
such a name: ``{kind: ibnorm_tanh, lambda: 2, scale: relative}``. Each kind is a config class of its own, so an option
that a norm does not have is refused, and a new norm brings its options with it.

Nothing here imports torch until a norm is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .compression import ALIASES, compression_names, get_compression, nearest
from .cost import Cost, Passes, standardizing, standardizing_statistics

if TYPE_CHECKING:
    from .base import Norm


class RowSums(NamedTuple):
    """The sums over a whole row that ranks exchange where each holds some of its columns.

    Attributes:
        forward, backward: numbers of a row in each all-reduce of the two passes.
        bytes_each: of a number.
    """

    forward: tuple[int, ...] = ()
    backward: tuple[int, ...] = ()
    bytes_each: int = 8


class NormConfig(BaseModel):
    """A kind of norm. It subclasses this, adds its options, and says which module it builds, of how many parameters."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    #: Whether its layer works on rows whose columns are spread over ranks, as inside a tensor-parallel sub-layer.
    sharded_columns: ClassVar[bool] = True
    #: Whether the norm shrinks with depth what a layer adds, as a scaled initialization does: a model may use one of them.
    scales_with_depth: ClassVar[bool] = False

    kind: str = Field(description="registered name of the norm")

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers in training."""
        return False

    def module_class(self) -> type[Norm]:
        """The layer to build; it takes hidden_size, the options by name, and the keywords of :class:`Norm`."""
        raise TypeError(f"{type(self).__name__} does not say which module it builds")

    def batch_class(self) -> type[Norm] | None:
        """The layer with this norm's statistics over batch and space, for places of a BatchNorm; None where there is none."""
        return None

    def group_class(self) -> type[Norm] | None:
        """The layer with this norm's statistics over a group of channels and space, for places of a GroupNorm, or None."""
        return None

    def options(self) -> dict[str, Any]:
        """What its layers take as keywords."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}

    def build(self, width: int, **place: Any) -> Norm:
        """Build the norm for rows of ``width``; ``place`` holds the keywords of :class:`Norm`."""
        return self.module_class()(width, **self.options(), **place)

    def in_place_of(self, *, eps: float, bias: bool, center: bool) -> NormConfig:
        """This config with what it leaves open taken from a norm that it replaces: eps, and whether there is a beta."""
        return self._filled(eps=eps, bias=bias)

    def _filled(self, **kept: Any) -> NormConfig:
        free = {name for name in kept if name in type(self).model_fields} - self.model_fields_set
        return self.model_copy(update={name: kept[name] for name in free})

    def num_params(self, width: int) -> int:
        """Parameters of one norm of this width, over all ranks."""
        raise TypeError(f"{type(self).__name__} does not say how many parameters it has")

    def operations(self) -> Passes | None:
        """Operations of a row, forward and backward, counted as :mod:`.cost` says; None where the norm does not say."""
        return None

    def statistics(self, bytes_an_element: int) -> int | None:
        """float32 numbers of a row that it has to keep beside x; None where the norm does not say, or has to keep more."""
        return None

    def flops(self, width: int) -> Cost | None:
        """Operations of one row."""
        passes = self.operations()
        return passes and Cost(passes[0].of(width), passes[1].of(width))

    def bytes_moved(self, width: int, bytes_an_element: int) -> Cost | None:
        """Bytes that one row has to move to and from memory, where each pass is one kernel.

        Forward x is read and y written, backward x and dy are read and dx written, and statistics are written and read.
        Gains, biases and their gradients are of a column, and stay in caches.
        """
        count = self.statistics(bytes_an_element)
        row = width * bytes_an_element
        return None if count is None else Cost(2 * row + 4 * count, 3 * row + 4 * count)

    def saved_bytes(self, width: int, bytes_an_element: int) -> int | None:
        """Bytes of one row that have to be kept from the forward to the backward pass: x and the statistics."""
        count = self.statistics(bytes_an_element)
        return None if count is None else width * bytes_an_element + 4 * count

    def row_sums(self) -> RowSums:
        """What its layer exchanges on sharded columns: nothing, unless it overrides this. Only counted, never acted upon."""
        return RowSums()

    def step_sums(self, width: int) -> int:
        """Numbers (float64) that its layer of so many columns sums over tokens' ranks after a step. Only counted."""
        return 0

    def changes_until(self, steps: int) -> int:
        """After how many of a run's steps the norm changes by itself no more; 0 where it never does."""
        return 0

    def at_embedding(self) -> NormConfig | None:
        """The norm that stands behind the embedding where this one is the model's default; most want none there."""
        return None

    def label(self) -> str:
        """A short name for tables and pictures: the kind and every option that is not its default."""
        return self._label(self.kind, hidden=("kind",))

    def _label(self, name: str, hidden: tuple[str, ...]) -> str:
        changed = [
            f"{field.alias or option}={getattr(self, option)}"
            for option, field in type(self).model_fields.items()
            if option not in hidden and getattr(self, option) != field.get_default(call_default_factory=True)
        ]
        return f"{name}({', '.join(changed)})" if changed else name


class StandardizingConfig(NormConfig):
    """A norm that divides by a root, with gain and perhaps bias."""

    eps: float = Field(1e-5, gt=0, description="added to the variance inside the root")
    bias: bool = Field(True, description="whether there is a beta")
    center: bool = Field(True, description="whether the row's mean is subtracted")

    def num_params(self, width: int) -> int:
        return width * (2 if self.bias else 1)

    def operations(self) -> Passes | None:
        return standardizing(center=self.center, bias=self.bias)

    def statistics(self, bytes_an_element: int) -> int | None:
        return standardizing_statistics(center=self.center, bytes_an_element=bytes_an_element)

    def row_sums(self) -> RowSums:
        """Those of :mod:`ibnorm_megatron.norms.sharded`; the fused kernels send a number less in the first all-reduce."""
        return RowSums(forward=(4, 4), backward=(3,))


Kind = TypeVar("Kind", bound=type[NormConfig])
_KINDS: dict[str, type[NormConfig]] = {}
_IB_PREFIX = "ibnorm_"


def norm_names() -> list[str]:
    """Every name that ``model.norm`` accepts; each registered compression C adds ``ibnorm_C``."""
    return [*_KINDS, *(f"{_IB_PREFIX}{name}" for name in [*compression_names(), *ALIASES])]


def register_norm(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make a config class known as ``model.norm=<name>``.

    Raises:
        ValueError: the name is taken.
    """

    def register(config_class: Kind) -> Kind:
        if name in norm_names():
            raise ValueError(f"a norm named {name!r} exists already; give yours another name")
        _KINDS[name] = config_class
        return config_class

    return register


@register_norm("none")
class NoNormConfig(NormConfig):
    """No norm at this site."""

    def module_class(self) -> type[Norm]:
        from .modules import NoNorm

        return NoNorm

    def num_params(self, width: int) -> int:
        return 0


@register_norm("layernorm")
class LayerNormConfig(StandardizingConfig):
    """LayerNorm, arXiv 1607.06450."""

    def module_class(self) -> type[Norm]:
        from .modules import LayerNorm

        return LayerNorm


@register_norm("rmsnorm")
class RMSNormConfig(StandardizingConfig):
    """RMSNorm, arXiv 1910.07467."""

    bias: bool = False
    center: bool = False
    unit_offset: bool = Field(False, description="the gain is 1 + w, and w starts at 0, as in Gemma")

    def module_class(self) -> type[Norm]:
        from .modules import RMSNorm

        return RMSNorm


@register_norm("ibnorm")
class IBNormConfig(StandardizingConfig):
    """IBNorm, arXiv 2510.25262; the formulas are those of :mod:`ibnorm_megatron.norms.compression`."""

    compression: str = Field("log", description="registered name of the bounded compression")
    lam: float = Field(4.0, gt=0, alias="lambda", description="strength; larger is weaker")
    scale: str = Field("absolute", pattern="^(absolute|relative)$", description="absolute | relative")
    form: str = Field("unit_slope", pattern="^(unit_slope|literal)$", description="unit_slope | literal")
    strength: str = Field(
        "fixed", pattern="^(fixed|learnable|scheduled)$", description="fixed | learnable | scheduled: what becomes of lambda"
    )
    ramp: float = Field(
        0.1, gt=0, le=1, description="share of the run's steps over which a scheduled compression grows from none to lambda"
    )

    @field_validator("compression")
    @classmethod
    def _one_name(cls, name: str) -> str:
        return get_compression(name).name

    @model_validator(mode="after")
    def _check(self) -> IBNormConfig:
        if self.form == "literal" and self.lam < 1:
            raise ValueError(
                f"lambda {self.lam} is below 1, where the literal form is unbounded: use lambda >= 1 or form unit_slope"
            )
        if self.strength != "fixed" and not get_compression(self.compression).of_ratio:
            raise ValueError(
                f"strength {self.strength} has no effect on {self.compression}, which is no function of r / lambda"
            )
        if self.strength == "scheduled" and self.form == "literal":
            # It starts at lambda times the ramp's steps, where g = f(r / lambda) is nothing beside eps.
            raise ValueError(
                "strength scheduled starts at a huge lambda, where eps drowns the literal form: use form unit_slope"
            )
        if self.strength != "scheduled" and self.ramp != type(self).model_fields["ramp"].default:
            raise ValueError(f"ramp has no effect where strength is {self.strength}: set strength scheduled or leave ramp out")
        return self

    def num_params(self, width: int) -> int:
        return super().num_params(width) + (1 if self.strength == "learnable" else 0)

    def operations(self) -> Passes | None:
        of_compression = get_compression(self.compression).operations
        if of_compression is None:
            return None
        learned = self.strength == "learnable"
        return standardizing(
            center=self.center,
            bias=self.bias,
            relative=self.scale == "relative",
            compression=of_compression,
            learned=(learned, learned and self.form == "unit_slope"),
        )

    def statistics(self, bytes_an_element: int) -> int | None:
        return standardizing_statistics(
            center=self.center,
            bytes_an_element=bytes_an_element,
            relative=self.scale == "relative",
            bent=get_compression(self.compression).operations != (0, 0),
        )

    def changes_until(self, steps: int) -> int:
        return max(1, round(self.ramp * steps)) if self.strength == "scheduled" else 0

    def row_sums(self) -> RowSums:
        return RowSums(forward=(4, 6), backward=(4,)) if self.scale == "relative" else super().row_sums()

    def module_class(self) -> type[Norm]:
        from .modules import IBNorm

        return IBNorm

    def batch_class(self) -> type[Norm]:
        from .channels import IBBatchNorm

        return IBBatchNorm

    def group_class(self) -> type[Norm]:
        from .channels import IBGroupNorm

        return IBGroupNorm

    def in_place_of(self, *, eps: float, bias: bool, center: bool) -> NormConfig:
        """As every norm, and it centres where the old one did: the compression is what it brings."""
        return self._filled(eps=eps, bias=bias, center=center)

    def label(self) -> str:
        return self._label(f"{_IB_PREFIX}{self.compression}", hidden=("kind", "compression"))


def parse_norm(value: Any) -> NormConfig:
    """Turn a name, a mapping with a ``kind``, or a ready NormConfig into a NormConfig.

    Raises:
        ValueError: an unknown kind, an unknown option, or a value out of range (pydantic's ValidationError is one).
    """
    if isinstance(value, NormConfig):
        return value
    options = {"kind": value} if isinstance(value, str) else value
    if not isinstance(options, dict) or not isinstance(options.get("kind"), str):
        raise ValueError(f"a norm is a name or a mapping with a kind: choose one of {', '.join(norm_names())}")
    names = norm_names()
    kind = options["kind"] if options["kind"] in names else options["kind"].lower()  # the paper's letters are capitals
    if kind not in names:
        raise ValueError(f"there is no norm named {options['kind']!r}: {nearest(kind, names)}")
    if kind not in _KINDS:
        if "compression" in options:
            raise ValueError(f"{kind} says its compression by its name: leave the option compression out, or use kind ibnorm")
        options = {"compression": kind.removeprefix(_IB_PREFIX), **options}
        kind = "ibnorm"
    config_class = _KINDS[kind]
    known = [field.alias or name for name, field in config_class.model_fields.items()]
    for unknown in [key for key in options if key not in known and key not in config_class.model_fields]:
        raise ValueError(f"{kind} has no option {unknown!r}: {nearest(str(unknown), known)}")
    return config_class.model_validate({**options, "kind": kind})


# Last, because the peers' configs subclass and register with the names above; whoever reads the registry has all of it.
from .peers import configs as _peers  # noqa: E402, F401
