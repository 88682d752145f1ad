"""All estimators with their usual settings, by name, in the order in which a table shows them: the probes come first."""

from __future__ import annotations

from .estimator import Estimator
from .gaussian import Gaussian
from .infonce import InfoNce
from .ksg import Ksg
from .probe import Probe
from .prompts import PromptEntropy
from .renyi import Renyi

#: Probes need labels, the others x or documents. Other settings: make the class with them.
ESTIMATORS: dict[str, Estimator] = {
    one.name: one
    for one in (
        Probe(),
        Probe(hidden=128),
        Renyi("x"),
        Renyi("labels"),
        PromptEntropy(),
        PromptEntropy(dataset=True),
        Gaussian(),
        Gaussian(shrink=True),
        InfoNce(),
        Ksg(),
    )
}
