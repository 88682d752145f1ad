"""Which language a document is in, by py3langid: a naive Bayes model over byte n-grams, for 140 labels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from .config import LanguageConfig

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


@cache
def _model() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # only who asks for languages needs it

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Language:
    """Drops documents whose most probable language is not kept, or not probable enough.

    The model is loaded once a process, in most of a second. A text without letters is in no language (``zxx``), or in none
    with much of a probability.
    """

    def __init__(self, config: LanguageConfig) -> None:
        self._config, self._keep, self._model = config, frozenset(config.keep), _model()

    def rules(self) -> list[str]:
        """The names of the rules: one."""
        return ["language"]

    def labels(self) -> list[str]:
        """Every language that the model knows."""
        return list(self._model.labels)

    def __call__(self, text: str) -> tuple[str, str] | None:
        """The rule's name and why it drops the text, or None."""
        language, probability = self._model.classify(text[: self._config.characters])
        if language not in self._keep:
            return "language", f"most probably {language} ({probability:.2f}), not {' or '.join(self._config.keep)}"
        if probability < self._config.min_probability:
            least = self._config.min_probability
            return "language", f"probability of {language} {probability:.3g} is below {least}"
        return None
