"""Python files of the user's that register norms and compressions: ``plugins: [my_norms.py]`` in a config."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from .errors import Problem


def load_plugins(paths: Iterable[str]) -> Iterator[Problem]:
    """Run each file once in this process; a relative path is taken from the current folder.

    Yields:
        A problem for each file that is not there or raises an error.
    """
    for given in paths:
        path = os.path.expanduser(given)
        if not path.endswith(".py") or not os.path.isfile(path):  # unlike Path.is_file, false for a name that cannot be one
            shown = given if given.strip() else repr(given)
            yield Problem("plugins", shown, "there is no such Python file", "give the path of a .py file")
            continue
        path = os.path.realpath(path)
        name = f"ibnorm_plugin_{xxhash.xxh3_64_hexdigest(path.encode())}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever the user's code raises; an exit would look like a success
            del sys.modules[name]
            yield Problem("plugins", given, f"it cannot be imported ({type(error).__name__}: {error})", "mend it")


def plugin_hashes(paths: Iterable[str]) -> dict[str, str]:
    """The content hash of each file, by the path given."""
    return {path: xxhash.xxh3_64_hexdigest(Path(path).expanduser().read_bytes()) for path in paths}
