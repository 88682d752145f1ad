"""Keys, tokens and passwords: told by the names that people give them, and kept out of what is printed or written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from .printing import printable

#: What stands where a secret stood.
HIDDEN = "(hidden)"

#: Last words of a name whose value is a secret, and words that say so wherever they stand.
_LAST = {"key", "apikey", "token", "pat"}
_ANYWHERE = {"secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials"}

#: Last words of names that tell where a secret is, and not what it is.
_HARMLESS = {"file", "path", "dir", "helper"}

#: A shorter value would be found within words that have nothing to do with it.
_SHORTEST = 8

_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")

#: NAME=VALUE, and 'NAME': 'VALUE' as mappings are shown.
_PAIR = re.compile(r"""(?P<name>[\w.-]+)(?P<between>=|['"]\s*:\s*)(?P<value>'[^']*'|"[^"]*"|[^\s,}\]'"]+)""")


def is_secret(name: str) -> bool:
    """Whether a variable or field of this name holds a secret: WANDB_API_KEY, hf_token, log.password."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    if not words or words[-1] in _HARMLESS:
        return False
    return words[-1] in _LAST or not _ANYWHERE.isdisjoint(words)


def secrets_of(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The values of the environment's secrets, those that are too short to be told from other words left out."""
    for name, value in environ.items():
        if is_secret(name) and len(value.strip()) >= _SHORTEST:
            yield value.strip()


def hide_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without the environment's secrets, values that a name beside them calls a secret, and an address's password."""
    for value in sorted(secrets_of(environ), key=len, reverse=True):
        for written in dict.fromkeys((value, printable(value), quote(value, safe=""))):
            text = text.replace(written, HIDDEN)
    text = _PAIR.sub(lambda pair: f"{pair['name']}{pair['between']}{HIDDEN}" if is_secret(pair["name"]) else pair[0], text)
    return _IN_ADDRESS.sub(HIDDEN, text)


def secrets_in(values: Any, environ: Mapping[str, str] = os.environ, where: str = "") -> Iterator[str]:
    """Dotted names of what holds a secret in nested plain values: a name that says so, or the value of a variable that does.

    Args:
        values: mappings, lists and plain values.
        environ: whose secrets are looked for.
        where: the name of ``values`` itself.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            name = f"{where}.{key}" if where else str(key)
            if is_secret(str(key)) and isinstance(value, str) and value:
                yield name
            else:
                yield from secrets_in(value, environ, name)
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from secrets_in(value, environ, f"{where}.{number}" if where else str(number))
    elif isinstance(values, str) and hide_secrets(values, environ) != values:
        yield where
