"""Headless Chromium for tests and benchmarks, driven by its DevTools protocol over a pipe: no driver package is needed.

with Browser(scratch_folder) as browser, served(folder) as address:  # of web_servers.py
    browser.open(address)
    browser.wait("document.title == 'Ready'")
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import time

FLAGS = (
    "--headless=new --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --use-fake-device-for-media-stream "
    "--use-fake-ui-for-media-stream --disable-gpu --enable-unsafe-swiftshader --remote-debugging-pipe"
).split()
PATIENCE = 120  # seconds, for one answer


def find_chromium():
    """Path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One Chromium with one page. `scratch` is a folder for its profile and for downloads."""

    def __init__(self, scratch):
        self.downloads = pathlib.Path(scratch) / "downloads"
        self.downloads.mkdir(parents=True)
        self._numbers, self._rest = itertools.count(1), b""
        ours_in, theirs_out = os.pipe()
        theirs_in, self._out = os.pipe()
        self._in = ours_in
        command = [find_chromium(), *FLAGS, f"--user-data-dir={scratch}/profile", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # Chromium reads from 3 and writes to 4
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = None
        self._attach()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.send("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _attach(self):
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM"):
            self.send(f"{domain}.enable")
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def send(self, method, **params):
        """Call a method of the protocol; returns its result."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps({"id": number, "method": method, "params": params, **session}).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:  # events pass by
            pass
        if "error" in answer:
            raise OSError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], PATIENCE)[0]:
                raise OSError(f"Chromium did not answer in {PATIENCE} s.")
            block = os.read(self._in, 1 << 20)
            if not block:
                raise OSError("Chromium has ended.")
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        """Go to an address; does not wait."""
        self.send("Page.navigate", url=address)

    def run(self, script):
        """Value of a JavaScript expression, awaited."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise OSError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script, seconds=PATIENCE):
        """Wait until an expression is true; returns its value. Between two pages there is nothing to ask: try again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if value := self.run(script):
                    return value
            time.sleep(0.05)
        raise OSError(f"{script} was not true in {seconds} s. The page shows: {self.run('document.body.innerText')}")

    def choose_file(self, selector, path):
        """Give a file to an <input type=file>."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key, code, number, text=""):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            given = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **given)

    def downloaded(self, name):
        """Content of a downloaded file, once it is complete; the file is removed."""
        path = self.downloads / name
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if path.is_file() and path.stat().st_size:
                content = path.read_bytes()
                path.unlink()
                return content
            time.sleep(0.05)
        raise OSError(f"{path} was not downloaded; there are {os.listdir(self.downloads)}.")

    def resize(self, width, height):
        """Size of the window, pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path):
        """Write the whole page as PNG."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(picture["data"]))
