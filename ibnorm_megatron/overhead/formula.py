"""What the norms of a model cost a token by formula: every norm's own, summed over the sites."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from ..config import Config
from ..norms.cost import Cost

#: Bytes of an activation.
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Place:
    """Sites whose norms are alike.

    Attributes:
        site: name of the site.
        norm: label of the norm.
        width: columns of a row.
        rows: of a token, in all of these norms together.
        flops, bytes_moved, saved_bytes: of a token, in all of them; None where the norm does not say.
    """

    site: str
    norm: str
    width: int
    rows: int
    flops: Cost | None
    bytes_moved: Cost | None
    saved_bytes: int | None


@dataclass(frozen=True)
class Formula:
    """What a token costs in all norms of a model; None where one of them does not say.

    Attributes:
        flops: operations.
        share: of these in the model's FLOPs by the PaLM formula, which counts its matrices alone.
        bytes_moved: to and from memory, at least.
        saved_bytes: from the forward to the backward pass, at least.
        places: where they are.
    """

    flops: Cost | None
    share: float | None
    bytes_moved: Cost | None
    saved_bytes: int | None
    places: list[Place]


def formula(config: Config) -> Formula:
    """The cost of the norms of a config's model."""
    model, size = config.model, _BYTES[config.train.precision]
    rows: Counter[tuple[str, str, int]] = Counter()
    norms = {}
    for site, norm in model.norm_sites().items():
        key = (site.name, norm.label(), model.norm_width(site))
        rows[key] += model.norm_rows(site)
        norms[key] = norm
    places = []
    for (site_name, label, width), count in rows.items():
        norm = norms[site_name, label, width]
        flops, moved, saved = norm.flops(width), norm.bytes_moved(width, size), norm.saved_bytes(width, size)
        of_all = (flops and flops.times(count), moved and moved.times(count), None if saved is None else count * saved)
        places.append(Place(site_name, label, width, count, *of_all))
    flops = _sum([place.flops for place in places])
    saved_bytes = [place.saved_bytes for place in places]
    return Formula(
        flops=flops,
        share=flops and flops.total / model.flops_per_token(config.train.sequence_length),
        bytes_moved=_sum([place.bytes_moved for place in places]),
        saved_bytes=None if None in saved_bytes else sum(bytes_ for bytes_ in saved_bytes if bytes_ is not None),
        places=places,
    )


def _sum(costs: list[Cost | None]) -> Cost | None:
    known = [cost for cost in costs if cost is not None]
    return Cost(sum(c.forward for c in known), sum(c.backward for c in known)) if len(known) == len(costs) else None


def to_dict(found: Formula) -> dict[str, object]:
    """As JSON holds it."""

    def cost(value: Cost | None) -> dict[str, int] | None:
        return None if value is None else value._asdict()

    def place(of: Place) -> dict[str, object]:
        return asdict(of) | {"flops": cost(of.flops), "bytes_moved": cost(of.bytes_moved)}

    return {
        "flops_a_token": cost(found.flops),
        "share_of_model_flops": found.share,
        "bytes_moved_a_token": cost(found.bytes_moved),
        "saved_bytes_a_token": found.saved_bytes,
        "places": [place(of) for of in found.places],
    }
