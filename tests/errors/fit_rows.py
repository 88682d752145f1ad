"""Tables of results that were logged elsewhere."""

from __future__ import annotations

from .mischief import file
from .rows import Before, Row

_FIT = "ibnorm lab fit runs.csv"


def _table(*lines: str, head: str = "size,tokens,loss,arm,seed") -> Before:
    return file("runs.csv", "\n".join([head, *lines, ""]))


FIT: tuple[Row, ...] = (
    Row(
        "a table without losses",
        _FIT,
        (
            "the column loss of runs.csv is missing: without it nothing can be fit; name one of its columns loss, or val_loss or validation_loss or eval_loss.",
        ),
        _table("1e5,5e5,a,0", head="size,tokens,arm,seed"),
    ),
    Row(
        "several things wrong with a table",
        _FIT,
        (
            "column size in line 2 of runs.csv is '0.125': it is not a number of parameters of 100 or more, such as 125000000 or 125M; correct it, or take the line out.",
            "column loss in line 3 of runs.csv is '3,512': it is not a loss in nats above 0, such as 3.4127; correct it, or take the line out.",
            "column seed in line 4 of runs.csv is '1e400': it is not a whole number that is not negative; correct it, or take the line out.",
            "line 5 of runs.csv is 4 cells long: the first line names 5 columns; give each its cell.",
        ),
        _table("0.125,5e5,3.5,a,0", '1e5,5e5,"3,512",a,0', "1e5,5e5,3.5,a,1e400", "1e5,5e5,3.5,a"),
    ),
    Row(
        "two lines of one run",
        _FIT,
        (
            "line 3 of runs.csv is of arm a, size 1e5, 5 tokens a parameter, seed 0: so is line 2; keep one of them, or give them different seeds.",
        ),
        _table("1e5,500000,3.5,a,0", "1e5,501000,3.4,a,0"),
    ),
    Row(
        "a table that is no text",
        _FIT,
        ("the table is runs.csv: it is not UTF-8 text; save it as CSV in UTF-8.",),
        file("runs.csv", "size,tokens".encode("utf-16")),
    ),
    Row(
        "a baseline that diverged everywhere",
        _FIT,
        ("the baseline is 'a': none of its runs has a loss; compare with another arm.",),
        _table("1e5,5e5,nan,a,0", "1e5,5e5,3.4,b,0"),
    ),
    Row(
        "a baseline that is no arm",
        f"{_FIT} --baseline layernrom",
        ("the baseline is 'layernrom': no run is of this arm; did you mean 'layernorm'?",),
        _table("1e5,5e5,3.5,layernorm,0", "1e5,5e5,3.4,b,0"),
    ),
    Row(
        "a margin that is no share",
        f"{_FIT} --equivalence 1.5",
        ("--equivalence is 1.5: it is a share of compute, above 0 and below 1; give one such as 0.01.",),
        _table("1e5,5e5,3.5,a,0"),
    ),
    Row(
        "a folder for a file",
        f"{_FIT} --json data",
        ("--json is data: it is a folder; give the name of a file.",),
        _table("1e5,5e5,3.5,a,0"),
    ),
)
