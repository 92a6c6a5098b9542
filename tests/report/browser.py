"""Debian's chromium over a pipe: a page as a reader sees it, at any width, in light and dark."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


def find_browser() -> str | None:
    """Return the path of a chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab, spoken to in the DevTools protocol: JSON, each message closed by a zero byte."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = os.fdopen(send, "wb"), os.fdopen(receive, "rb")
        self._number, self._rest, self._session = 0, b"", None
        self.complaints: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScrollbarsHidden", hidden=True)  # they would be cut off pictures

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; complaints of the page on the way are kept."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        self._send.write(json.dumps(command).encode() + b"\0")
        self._send.flush()
        while (message := self._read()).get("id") != self._number:
            pass
        assert "error" not in message, message
        return message["result"]

    def show(
        self,
        page: Path,
        width: int,
        height: int = 900,
        *,
        scheme: str = "light",
        media: str = "",
        motion: str = "no-preference",
    ) -> None:
        """Load a page in a window of so many pixels, on the screen or as it would be printed."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"][
            "value"
        ]

    def screenshot(self) -> np.ndarray:
        """Return the whole page, ``[height, width, 3]`` in [0, 1]."""
        from matplotlib.image import imread

        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return imread(BytesIO(base64.b64decode(shot["data"])), format="png")[..., :3]

    def pdf(self) -> bytes:
        """Return the page as printed."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=False)["data"])

    def close(self) -> None:
        """Close the pipe, at whose end the browser ends."""
        self._send.close()
        self._receive.close()

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receive.fileno(), 1 << 16)
            assert part, "chromium ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if message.get("method") in COMPLAINTS:
            self.complaints.append(message["params"])
        return message


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a chromium with a fresh profile, and end it."""
    there, send = os.pipe()
    receive, back = os.pipe()
    command = [find_browser() or "chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    redirected = f'exec "$@" 3<&{there} 4>&{back}'
    process = subprocess.Popen(
        ["bash", "-c", redirected, "bash", *command],
        pass_fds=(there, back),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(there)
    os.close(back)
    try:
        browser = Browser(send, receive)
        yield browser
        browser.ask("Browser.close")
        browser.close()
        process.wait(20)
    finally:
        process.kill()
        process.wait()
