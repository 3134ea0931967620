"""The page in a real browser: `app.py` in a process of its own, and visitors to it. For the tests of the page."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from ais.demo.catalog import BROKEN

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]

CHROMIUM = next((c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c), None)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]

START = """
import os, pathlib, runpy, ais.heads.shipped
ais.heads.shipped.heads_directory = lambda: pathlib.Path(os.environ['TEST_HEADS'])
exec(os.environ['TEST_BEFORE'])
runpy.run_path('app.py', run_name='__main__')
"""

READY = "body[data-ais=ready]"

CANVAS = "#ais-overlay .stage canvas"


@contextmanager
def running_app(
    heads: Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    before: str = "",
) -> Iterator[str]:
    """The address of the page with the heads of a folder; at the end its log must hold no traceback.

    Args:
        port: where it listens; any free one if 0.
        before: Python that is run before the page is built.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    settings = {
        "TEST_HEADS": str(heads),
        "TEST_BEFORE": before,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
    }
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START],
            cwd=ROOT,
            env={**(environment or os.environ), **settings},
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(20)


@lru_cache(maxsize=1)
def chromium() -> Any:
    """The one browser of all test modules: playwright can be started only once."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = sync_api.sync_playwright().start()
    atexit.register(playwright.stop)
    return playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@contextmanager
def visiting(url: str) -> Iterator[Callable[..., Any]]:
    """Opens the page in new contexts; it must ask nothing of other machines and log no error."""
    contexts, faults = [], []

    def open_(expect_errors: bool = False, query: str = "", **options: Any) -> Any:
        context = chromium().new_context(
            **{"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: faults.append(str(error)))
        if not expect_errors:
            page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.on(
            "request",
            lambda request: request.url.startswith((url, "data:", "blob:")) or faults.append(request.url),
        )
        page.goto(url + query)
        page.wait_for_selector("#ais-picker .choose", state="attached")
        return page

    try:
        yield open_
    finally:
        for context in contexts:
            context.close()
    assert not faults


def coffee() -> Path:
    """A cup of coffee: parts of it raise its score, and parts lower it."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "coffee.png"


def upload(page: Any, path: Path | str, state: str = "ready") -> None:
    page.evaluate("document.body.dataset.ais = 'waiting'")
    page.set_input_files("#ais-picker input[type=file]", str(path))
    page.wait_for_selector(f"body[data-ais={state}]")
    page.wait_for_timeout(100)


def number(text: str) -> float:
    found = re.search(r"([+−] ?)?\d+(\.\d+)?", text)
    assert found, text
    return float(found[0].replace("−", "-").replace(" ", ""))


def check_sentence(text: str) -> str:
    """What the page says of an error: a sentence, and nothing of the server's own."""
    assert text.endswith(".")
    assert not re.search(r"Traceback|Error:|NoneType|hf_owner|/tmp|gradio", text)
    assert BROKEN not in text
    return text
