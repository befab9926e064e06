"""A page in headless Chromium: what it says, asks for and complains about, and how wide it is on a screen of some width."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

QUIET = (
    "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --enable-logging=stderr"
).split()
"""What also keeps the browser's own errands off; what is left of them has no page as its initiator."""


@dataclass
class Opened:
    """``requests``: addresses that the page asked for; ``console``: its complaints."""

    dom: str
    requests: list[str]
    console: list[str]


def browser() -> str:
    """Chromium's path; the test skips where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


def opened(page: Path, scratch: Path) -> Opened:
    """The page, opened from its file."""
    log = scratch / "net.json"
    done = _run(scratch, f"--log-net-log={log}", "--dump-dom", page.resolve().as_uri())
    return Opened(done.stdout, _requests(log), [line for line in done.stderr.splitlines() if ":CONSOLE" in line])


def width(page: Path, screen: int, scratch: Path) -> int:
    """How wide the page is where the screen is ``screen`` pixels wide: more means that it must be pushed sideways.

    A copy without its policy says so to the page that frames it, since a window is never narrower than 500 pixels.
    """
    script = (
        "<script>addEventListener('load',()=>parent.postMessage(document.documentElement.scrollWidth,'*'))</script>"
    )
    policy = '<meta http-equiv="Content-Security-Policy"'
    copy = scratch / "copy.html"
    copy.write_text(page.read_text().replace(policy, f'{script}<meta name="without"', 1))
    frame = scratch / "frame.html"
    frame.write_text(
        "<script>addEventListener('message',e=>document.title=e.data)</script>"
        f'<iframe src="copy.html" style="border:0;width:{screen}px;height:800px"></iframe>'
    )
    dom = _run(scratch, "--window-size=1400,900", "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()).stdout
    return int(dom.partition("<title>")[2].partition("</title>")[0])


def screenshot(page: Path, screen: int, height: int, into: Path, scratch: Path) -> None:
    """A PNG of the page's first ``height`` pixels."""
    _run(scratch, f"--window-size={screen},{height}", f"--screenshot={into}", page.resolve().as_uri())


def _run(scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [browser(), *QUIET, f"--user-data-dir={scratch / 'profile'}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _requests(log: Path) -> list[str]:
    """The addresses in Chromium's network log that a page is the initiator of."""
    content = json.loads(log.read_text())
    started = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    params = [event.get("params", {}) for event in content["events"] if event["type"] == started]
    return [given["url"] for given in params if given.get("initiator", "not an origin") != "not an origin"]
