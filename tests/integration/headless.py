"""A headless Chromium spoken to through two pipes (the DevTools protocol): tests can wait, click and look again."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0  # only keeps a broken test from hanging
COMMANDS, ANSWERS = 3, 4  # the descriptors the browser reads and writes
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
    "--window-size=1280,900",
)  # fmt: skip


def find_chromium() -> str | None:
    """The program, or None where it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser process with one page open at a time."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self.process, self._commands, self._answers = process, commands, answers
        self._buffer, self._number, self._session = b"", 0, ""

    def open(self, page: Path, fragment: str = "") -> None:
        """Show a file in a new tab and wait until its scripts have run."""
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._ask("Page.enable")
        self._ask("Page.navigate", {"url": f"file://{page}{fragment}"})
        self.wait(f"location.protocol === 'file:' && {LOADED}", f"{page} to be loaded")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self._ask("Runtime.evaluate", {"expression": script, "returnByValue": True})
        assert "exceptionDetails" not in found, f"{script}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def dom(self) -> str:
        """The document as it stands."""
        return str(self.run("document.documentElement.outerHTML"))

    def wait(self, script: str, what: str) -> Any:
        """Poll until the expression is true; between two documents it may have no answer."""
        deadline, found = time.monotonic() + SECONDS, None
        while time.monotonic() < deadline:
            answer = self._ask("Runtime.evaluate", {"expression": script, "returnByValue": True}, strict=False)
            found = answer.get("result", {}).get("value")
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {SECONDS} s for {what}; {script} is {found!r}")

    def move(self, x: float, y: float) -> None:
        """Point at a place of the window, in CSS pixels."""
        self._ask("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def _ask(self, method: str, values: dict[str, Any] | None = None, strict: bool = True) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values or {}}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._number:
                assert "result" in answer or not strict, f"{method}: {answer}"
                return answer.get("result", {})

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser did not answer {method} within {SECONDS} s"
            piece = os.read(self._answers, 1 << 20)
            assert piece, f"the browser ended while it was asked {method}"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


LOADED = "document.readyState === 'complete' && !!document.querySelector('#rows')"


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile; ended with everything it started."""
    program = find_chromium()
    assert program is not None
    (commands_in, commands_out), (answers_in, answers_out) = os.pipe(), os.pipe()
    # above the two numbers they are moved to, or moving one would close the other
    given = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (commands_in, answers_out)]

    def place() -> None:
        os.dup2(given[0], COMMANDS)
        os.dup2(given[1], ANSWERS)

    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,  # the two descriptors are put in place after the others would be closed
        preexec_fn=place,
    )
    for number in (commands_in, answers_out, *given):
        os.close(number)
    try:
        yield Browser(process, commands_out, answers_in)
    finally:
        os.close(commands_out)  # it ends by itself when nobody speaks to it any more
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        os.close(answers_in)
