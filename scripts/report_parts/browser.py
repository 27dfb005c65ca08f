"""A headless Chromium, driven over its DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS = 30
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # a page that asks the network fails instead of waiting


class Browser:
    """A running browser with one tab."""

    def __init__(self, folder: Path) -> None:
        """Starts `folder/chromium`."""
        theirs_in, self.requests = os.pipe()
        self.answers, theirs_out = os.pipe()
        # The browser reads requests from descriptor 3 and answers on 4, which our pipes may have now.
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out)]
        wired = 'exec "$@" 3<&{} 4>&{} 2>/dev/null'.format(*theirs)
        environment = os.environ | {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(folder / "fonts.conf")}
        command = ["bash", "-c", wired, "bash", str(folder / "chromium"), *FLAGS]
        self.process = subprocess.Popen(command, pass_fds=theirs, env=environment)
        for one in (theirs_in, theirs_out, *theirs):
            os.close(one)
        self.pending, self.number, self.events = b"", 0, []
        self.session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol. Events that arrive meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self._write(json.dumps(message).encode() + b"\0")
        while (got := self._read()).get("id") != self.number:
            self.events.append(got)
        if "error" in got:
            raise SystemExit(f"report-check: {method}: {got['error']}")
        return got["result"]

    def open(self, url: str, width: int, theme: str) -> None:
        """Opens a page in a window of `width` pixels and waits until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, script: str) -> Any:
        """The value of an expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get("value")

    def complaints(self) -> list[str]:
        """Messages on the console, errors, and requests since the page was opened."""
        found = []
        for event in self.events:
            method, told = event["method"], event["params"]
            if method == "Runtime.consoleAPICalled":
                found.append("console: " + " ".join(str(one.get("value")) for one in told["args"]))
            elif method == "Runtime.exceptionThrown":
                found.append(f"error: {told['exceptionDetails'].get('exception', {}).get('description')}")
            elif method == "Log.entryAdded":
                found.append(f"log: {told['entry']['text']}")
            elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "file:", "about:")):
                found.append(f"request: {told['request']['url']}")
        return found

    def screenshot(self, path: Path, height: int) -> None:
        """Saves the page from its top to `height` pixels."""
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(picture))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.requests, data) :]

    def _read(self) -> dict[str, Any]:
        """The next message."""
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self.answers, 1 << 20) if ready else b""
            if not more:
                self.process.kill()
                raise SystemExit("report-check: the browser does not answer")
            self.pending += more
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)
