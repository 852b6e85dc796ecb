"""A headless Chromium, driven through its debugging pipe: no driver, no port, nothing but the browser itself."""

import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)
LIMIT = 60.0  # seconds for an answer
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "ArrowDown": (40, ""), " ": (32, " ")}  # code and text


def find():
    """Return the path of a browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one tab."""

    def __init__(self, path, profile: Path):
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()

        def as_three_and_four():  # the pipe's ends, as Chromium expects them
            copies = os.dup(reads), os.dup(writes)
            for number, copy in zip((3, 4), copies, strict=True):
                os.dup2(copy, number)

        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        os.set_blocking(self._in, False)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method, **parameters):
        """Return the answer to a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        deadline = time.monotonic() + LIMIT
        while b"\0" not in self._rest:
            assert time.monotonic() < deadline, "the browser does not answer"
            try:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, "the browser has ended"
                self._rest += chunk
            except BlockingIOError:
                time.sleep(0.002)
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url, *, width=1280, height=900, scheme="light"):
        """Load a page, in a window of this size and a colour scheme; `events` are those since then."""
        self.events = []
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=url)
        while not self.happened("Page.loadEventFired"):
            self.events.append(self._next())

    def happened(self, method):
        """Return the parameters of the events of a kind."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def run(self, script):
        """Return the value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        """Press and release a key."""
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def roles(self):
        """Return the roles of the accessibility tree's nodes, in order."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [node["role"]["value"] for node in nodes if not node["ignored"]]
