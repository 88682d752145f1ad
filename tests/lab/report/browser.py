"""A page in headless Chromium: as a picture, and as the browser measures it. The page has no script and needs none: it
stands in a frame, and what measures it stands around the frame."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever is asked of a network is not found
    "--virtual-time-budget=10000",
)
_FRAME = """<!DOCTYPE html><html style="color-scheme: {scheme}"><body style="margin: 0">
<iframe id="frame" srcdoc="{page}"
  style="border: 0; display: block; color-scheme: {scheme}; width: {width}px; height: {height}px">
</iframe><script>
document.getElementById("frame").addEventListener("load", (event) => {{
  const page = event.target.contentDocument, root = page.documentElement;
  const found = {{}};
  {measure}
  document.body.dataset.found = JSON.stringify(found);
}});
</script></body></html>"""
#: What leaves the page at its right, resources that were asked for, text that is drawn, and how large texts are shown.
_MEASURE = """
  found.width = root.clientWidth; found.scrollWidth = root.scrollWidth; found.height = root.scrollHeight;
  const inside = (element) => element.closest(".scroll, nav, .skip, svg");
  found.outside = [...page.body.querySelectorAll("*")].filter((each) => !inside(each) && each.getBoundingClientRect().width > 0
    && each.getBoundingClientRect().right > root.clientWidth + 0.5).map((each) => each.outerHTML.slice(0, 90));
  found.resources = event.target.contentWindow.performance.getEntriesByType("resource").map((each) => each.name);
  found.text = page.body.innerText;
  found.paper = getComputedStyle(page.body).backgroundColor;
  found.pictures = [...page.querySelectorAll("figure svg")].filter((each) => each.getBoundingClientRect().width > 0)
    .map((each) => [each.getBoundingClientRect().width, each.getBoundingClientRect().height]);
  const texts = [...page.querySelectorAll("figure svg text")].filter((each) => each.getBoundingClientRect().width > 0);
  const scale = (each) => Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b);
  found.smallest = Math.min(...texts.map((each) => parseFloat(getComputedStyle(each).fontSize) * scale(each)));
  found.cut = texts.filter((each) => each.getBoundingClientRect().right > root.clientWidth - 4
    || each.getBoundingClientRect().left < 4).map((each) => each.textContent);
  found.dead = [...page.querySelectorAll("a[href^='#'], svg a")].map((each) => each.getAttribute("href"))
    .filter((each) => each && !page.getElementById(each.slice(1)));
"""


def measure(page: Path, width: int, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """What the browser finds in a page that is ``width`` pixels wide."""
    dom = _run(_wrapped(page, width, 2000, folder, dark), folder, "--dump-dom", f"--window-size={max(width, 600)},2000")
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))


def screenshot(page: Path, width: int, height: int, folder: Path, *, dark: bool = False) -> Path:
    """The page's first ``height`` pixels as a PNG, as wide as the window, which may be wider than the page."""
    target = folder / f"{page.stem}-{width}-{'dark' if dark else 'light'}.png"
    wrapped = _wrapped(page, width, height, folder, dark)
    _run(wrapped, folder, f"--screenshot={target}", f"--window-size={max(width, 600)},{height}")
    return target


def _wrapped(page: Path, width: int, height: int, folder: Path, dark: bool) -> Path:
    scheme = "dark" if dark else "light"
    text = html.escape(page.read_text(encoding="utf-8"))
    wrapped = folder / f"frame-{width}-{scheme}.html"
    wrapped.write_text(_FRAME.format(scheme=scheme, width=width, height=height, page=text, measure=_MEASURE), encoding="utf-8")
    return wrapped


def _run(page: Path, folder: Path, *flags: str) -> str:
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:  # tests/run.sh installs it where it may
        pytest.skip("no Chromium: apt-get install chromium, or put chromium or google-chrome on the PATH")
    profile = folder / "profile"
    command = [program, *_FLAGS, f"--user-data-dir={profile}", *flags, page.absolute().as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    shutil.rmtree(profile, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout
