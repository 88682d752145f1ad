"""Wrong versions of right input, as hypothesis strategies: plain values with a few edits, and bytes with a few edits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

#: Values that programs trip over: of another type, at an edge, too large, no number, text that is more than text.
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10_000, 2**31, 2**63 - 1, 2**63, 10**30, -(10**18)),
    *(0.0, -0.0, 1e-320, 1e308, -1.5, 0.5, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "0",
        "-1",
        "true",
        "null",
        "nan",
        "1e3",
        "\n",
        "a\nb",
        "\0",
        "\x1b[2J",
        "\u202e",
        "x" * 300,
        "../x",
        "~nobody/x",
    ),
    *("bf16", "fp32", "gelu", "learned", "wsd", "sub", "post", "layernorm", "dyt", "batchnorm", "normalnorm", "offline"),
    *("none", "rmsnorm", "ibnorm_log", "kind", "default", "layers.0-3", "layers.99999999999999999999.attn_in", "auto", "full"),
    *(
        [],
        {},
        [None],
        [[]],
        {"kind": "ibnorm"},
        {"kind": []},
        {"": 1},
        {"default": {"kind": "dyt"}},
        ["a", 1],
        {"x": {"y": {}}},
    ),
]

_plain = st.one_of(
    st.sampled_from(NASTY),
    st.integers(),
    st.integers(-4, 300),
    st.floats(),
    st.text(max_size=6),
    st.recursive(
        st.sampled_from([None, True, 1, 0.5, "a"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a nested value, but of the value itself."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(*at, key), *_places(value[key], (*at, key))]]


@st.composite
def edited_values(draw: st.DrawFn, bases: Sequence[Any]) -> Any:
    """One of the base values with up to four edits: something left out, renamed, replaced, moved or doubled."""
    value = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 4]))):
        places = _places(value)
        if not places:
            break
        *path, key = draw(st.sampled_from(places))
        inside = value
        for step in path:
            inside = inside[step]
        edit = draw(st.sampled_from(["replace", "replace", "replace", "nudge", "remove", "rename", "add", "move", "double"]))
        if edit == "replace":
            inside[key] = copy.deepcopy(draw(_plain))
        elif edit == "nudge":  # what is nearly right gets farthest
            old = inside[key]
            number = isinstance(old, int | float) and not isinstance(old, bool)
            change = draw(st.sampled_from([-1, 1, 2, 0.5, 3, 4])) if number else draw(st.sampled_from(["x", "", "-2", " "]))
            if isinstance(old, dict | list):
                inside[key] = [old]
            elif isinstance(old, bool):
                inside[key] = not old
            else:
                inside[key] = old * change if number else f"{old}{change}"
        elif edit == "remove":
            del inside[key]
        elif edit == "double":
            inside[key] = [inside[key], copy.deepcopy(inside[key])]
        elif edit == "move":
            other = draw(st.sampled_from(places))
            found = value
            for step in other:
                if not isinstance(found, dict | list) or (isinstance(found, dict) and step not in found):
                    break
                found = found[step] if isinstance(found, dict) or step < len(found) else None
            inside[key] = copy.deepcopy(found)
        elif isinstance(inside, dict):
            name = draw(st.sampled_from([f"{key}s", str(key)[1:], str(key).upper()]) | st.text(max_size=5))
            inside[name] = inside.pop(key) if edit == "rename" else copy.deepcopy(draw(_plain))
    return value


@st.composite
def edited_bytes(draw: st.DrawFn, bases: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of the base files with up to six edits: bytes flipped, put in, taken out, repeated; its end cut off or grown.

    Args:
        bases: right files.
        words: what means something in this kind of file, and is put in now and then.
    """
    data = bytearray(draw(st.sampled_from(bases)))
    numbers = [bytes(8), b"\xff" * 8, (2**31 - 1).to_bytes(4, "little"), (2**63 - 1).to_bytes(8, "little"), b"\x80"]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4, 6]))):
        edit = draw(st.sampled_from(["flip", "flip", "write", "write", "insert", "remove", "repeat", "cut", "grow"]))
        # Half of all edits are near the beginning, where headers are.
        last = max(0, len(data) - 1)
        at = draw(st.integers(0, min(last, 64)) | st.integers(0, last))
        length = draw(st.integers(1, 16))
        new = draw(st.sampled_from([*words, *numbers])) if draw(st.booleans()) else draw(st.binary(min_size=1, max_size=8))
        if edit == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "write":
            data[at : at + len(new)] = new
        elif edit == "insert":
            data[at:at] = new
        elif edit == "remove":
            del data[at : at + length]
        elif edit == "repeat":
            data[at:at] = data[at : at + 4 * length]
        elif edit == "cut":
            del data[at:]
        elif edit == "grow":
            data += new * length
    return bytes(data)
