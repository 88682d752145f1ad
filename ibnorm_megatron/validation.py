"""What pydantic refuses, in our sentences."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from .errors import Problem, nearest


def checked_path(text: str) -> str:
    """The text, if it can be a path.

    Raises:
        ValueError: it holds a zero byte, or the home of a user that is not there; the message says so.
    """
    if "\0" in text:
        raise ValueError("it holds a zero byte, and no path does: take it out")
    if os.path.expanduser(text).startswith("~"):
        raise ValueError("there is no such user's home: write the path from / on, or ./~ for a folder of that name")
    return text


#: A field that holds a path, perhaps with ~ in front. What is refused here would be a ValueError wherever it is used.
PathText = Annotated[str, AfterValidator(checked_path)]


def problem_of(room: type[BaseModel], name: str, detail: Any) -> Problem:
    """One pydantic error as one of our sentences."""
    where = ".".join([name, *map(str, detail["loc"])])
    if detail["type"] == "missing":
        return Problem(where, "missing", "it has no default", f"add it to the config file or pass {where}=VALUE")
    if detail["type"] == "extra_forbidden":
        key, deep = str(detail["loc"][-1]), len(detail["loc"]) > 1
        mend = "take it out" if deep else nearest(key, room.model_fields)
        return Problem(where, repr(detail["input"]), "there is no such field here", mend)
    if detail["type"] == "value_error":
        why, _, mend = str(detail["ctx"]["error"]).partition(": ")
        value = "set so" if isinstance(detail["input"], dict) else repr(detail["input"])
        return Problem(where, value, why, mend or "change one of them")
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if choices := re.fullmatch(r"\^\(([\w|]+)\)\$", detail.get("ctx", {}).get("pattern", "")):
        message = f"input should be {' or '.join(map(repr, choices[1].split('|')))}"
    mend = "write true or false" if detail["type"] == "bool_type" else "give it such a value"
    return Problem(where, repr(detail["input"]), message, mend)
