"""The rules of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2): remove lines, then drop what is left of no use.

Words stand between white space. A sentence ends at ``.``, ``!`` or ``?``, one or several, after which may come closing
quotation marks and brackets, before white space or the end of the text; text after the last such end is no sentence. So
"e.g. this" ends one and "3.14" none; the paper counts by a trained model for English. A line that ends in ``...`` does not
end in terminal punctuation, as in the code that made C4; ``…`` is none either.
"""

from __future__ import annotations

import re

from .config import C4Config

#: A period, exclamation mark, question mark, or end quotation mark, as the paper says.
_TERMINAL = (".", "!", "?", '"', "”")

#: Possessive and only at the begin of a run: otherwise a million dots before a letter take a million times as long.
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’»)\]]*+(?!\S)")


class C4:
    """The rules that a config leaves on: first those on the whole document, then lines, then sentences."""

    def __init__(self, config: C4Config) -> None:
        self._config = config
        self._changes_lines = config.terminal_punctuation or config.min_words_per_line > 0 or config.javascript_lines

    def rules(self) -> list[str]:
        """The names of the rules, in order. ``c4.lines`` drops documents of which no line is kept."""
        config = self._config
        on = {
            "c4.lorem_ipsum": config.lorem_ipsum,
            "c4.curly_bracket": config.curly_bracket,
            "c4.lines": self._changes_lines,
            "c4.sentences": config.min_sentences > 0,
        }
        return [name for name, is_on in on.items() if is_on]

    def __call__(self, text: str) -> tuple[str, int, tuple[str, str] | None]:
        """What is left of a text, how many lines were removed, and the rule that drops it with the reason, or None.

        Blank lines go with the others, uncounted: they end in no punctuation.
        """
        config, removed = self._config, 0
        if config.lorem_ipsum and (found := text.lower().count("lorem ipsum")):
            return text, 0, ("c4.lorem_ipsum", f"lorem ipsum occurs {found} times" if found > 1 else "lorem ipsum occurs")
        if config.curly_bracket and (found := text.count("{")):
            return text, 0, ("c4.curly_bracket", f"{{ occurs {found} times" if found > 1 else "{ occurs")
        if self._changes_lines:
            kept = []
            for line in text.split("\n"):
                stripped = line.strip()
                if self._keeps(stripped):
                    kept.append(line)
                else:
                    removed += bool(stripped)
            text = "\n".join(kept)
            if not text.strip():
                return text, removed, ("c4.lines", f"none of {removed} lines is kept")
        if config.min_sentences:
            sentences = sum(1 for _ in _SENTENCE_END.finditer(text))
            if sentences < config.min_sentences:
                return text, removed, ("c4.sentences", f"number of sentences {sentences} is below {config.min_sentences}")
        return text, removed, None

    def _keeps(self, line: str) -> bool:
        config = self._config
        if config.terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith("...")):
            return False
        if config.min_words_per_line and len(line.split(None, config.min_words_per_line)) < config.min_words_per_line:
            return False
        return not (config.javascript_lines and "javascript" in line.lower())
