"""A real Chromium for tests of the status page: Debian's, headless, driven through its own driver."""

import base64
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Host

CHROMIUM, DRIVER = "chromium", "chromedriver"
WAIT_S_MAX = 20.0
WIDE, PHONE = (1280, 900), (320, 640)
# As root there is no sandbox, and a small /dev/shm is not enough for its pictures.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",
)
SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifts += one.value; })
  .observe({type: "layout-shift", buffered: false});
"""


class Browser:
    """One window. A context manager: leaving it ends Chromium."""

    def __init__(self, folder: Path) -> None:
        lacking = [name for name in (CHROMIUM, DRIVER) if shutil.which(name) is None]
        if lacking:
            pytest.fail(f"the status page is tested in a real browser, and {' and '.join(lacking)} cannot be found: "
                        "'make test' installs Debian's packages chromium and chromium-driver")  # fmt: skip
        from selenium import webdriver  # type: ignore[import-not-found, unused-ignore]

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which(CHROMIUM)
        for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which(DRIVER), log_output=str(folder / "chromedriver.log"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(WAIT_S_MAX)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    # -- how it looks at the page ------------------------------------------------------------------------------------

    def look(self, size: tuple[int, int] = WIDE, *, dark: bool = False, scripts: bool = True) -> None:
        """Set the size of the window, the colours that the user prefers, and whether scripts run."""
        width, height = size
        phone = width <= PHONE[0]
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
                      deviceScaleFactor=2 if phone else 1)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._command("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, url: str) -> None:
        self.driver.get(url)

    def screenshot(self, path: Path) -> None:
        """Save the whole page, however long it is."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = self._command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    # -- what is on it -----------------------------------------------------------------------------------------------

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Return the text of the first element, as a reader sees it; "" where there is none."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return " ".join(str(self.run(script, selector)).split())

    def source(self) -> str:
        """Return the page as the server has sent it; also where no script may run."""
        root = self._command("DOM.getDocument")["root"]["nodeId"]
        return str(self._command("DOM.getOuterHTML", nodeId=root)["outerHTML"])

    def tab(self) -> None:
        """Go on to what the keyboard reaches next."""
        for kind in ("keyDown", "keyUp"):
            self._command("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def wait(self, until: Callable[[], Any], what: str, within_s: float = WAIT_S_MAX) -> Any:
        """Return what `until` returns as soon as that is true."""
        end = time.monotonic() + within_s
        while not (found := until()):
            if time.monotonic() > end:
                pytest.fail(f"{what}: not after {within_s} s. The page says:\n{self.text('body')}")
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """Return what the browser has found wrong since the last call: errors, violated policies, missing files."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def watch_shifts(self) -> None:
        """Begin to add up how far things jump (Cumulative Layout Shift)."""
        self.run(SHIFTS)

    def shifts(self) -> float:
        return float(self.run("return window.shifts"))


@contextlib.contextmanager
def forwarded(host: Host, port: int) -> Iterator[int]:
    """Reach a port on a host's own loopback from this machine's; yields the port here."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = host.start(_forward, listening, port)
        try:
            yield listening.getsockname()[1]
        finally:
            child.kill()


def _forward(listening: socket.socket, port: int) -> None:
    """Carry what comes to `listening`, which belongs to the machine, to a port of this process's own network."""
    while True:  # until killed
        client, _ = listening.accept()
        try:
            server = socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            client.close()
            continue
        server.settimeout(None)
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
