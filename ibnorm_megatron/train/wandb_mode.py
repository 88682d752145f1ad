"""Whether a run speaks to Weights & Biases, writes for it, or does neither. Imports neither torch nor wandb."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from .config import LogConfig

Mode = Literal["off", "offline", "online"]

#: What wandb's own variable may say, and what it means here.
_SAID: dict[str, Mode] = {"offline": "offline", "dryrun": "offline", "disabled": "off"}


def wandb_host(environ: Mapping[str, str] = os.environ) -> str:
    """The name of the server that a run would speak to."""
    return urlsplit(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""


def key_files(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Files that may hold a key, beside the variables."""
    return [environ["NETRC"]] if environ.get("NETRC") else ["~/.netrc", "~/_netrc"]


def has_key(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a key for that server, in a variable or in a file that ``wandb login`` writes."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    for place in key_files(environ):
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            if netrc.netrc(os.path.expanduser(place)).authenticators(wandb_host(environ)):
                return True
    return False


def wandb_mode(log: LogConfig, environ: Mapping[str, str] = os.environ) -> Mode:
    """What ``log.wandb`` comes to on this machine.

    ``auto`` is what WANDB_MODE says, if that is offline or disabled; else online where there is a key, and offline where
    there is none. Without wandb installed it is off. The other values are themselves.
    """
    if log.wandb != "auto":
        return log.wandb
    if find_spec("wandb") is None:
        return "off"
    said = _SAID.get(environ.get("WANDB_MODE", "").lower())
    return said or ("online" if has_key(environ) else "offline")
