"""What a reader of a study's report has to know beside what was analysed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notes:
    """What else a reader has to know.

    Attributes:
        unmatched: in what runs are not alike, or not what their folders say: nothing can be concluded then.
        stuck: why the study cannot go on.
        records: how many runs' folders were compared with the ledger, in a sentence.
    """

    unmatched: tuple[str, ...] = ()
    stuck: str = ""
    records: str = ""


#: Nothing more to know.
NONE = Notes()
