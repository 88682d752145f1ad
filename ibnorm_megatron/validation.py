"""What pydantic refuses, in our sentences."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .errors import Problem, nearest


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
    mend = "write true or false" if detail["type"] == "bool_type" else "give it such a value"
    return Problem(where, repr(detail["input"]), message, mend)
