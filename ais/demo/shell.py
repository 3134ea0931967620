"""The page as a whole: its frame with the tabs in it, and what it needs to be launched."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import Any

import gradio as gr

from ais.demo import api, gpu, middleware, storage
from ais.demo.catalog import offered
from ais.demo.components import PARTS, component, text
from ais.demo.session import KEEP
from ais.demo.tabs import TABS
from ais.heads.config import EMBEDDED


def build() -> gr.Blocks:
    """The page and its API, ready for `launch(**launch_options())`."""
    _own_folder()
    with gr.Blocks(title="AIS", fill_width=True, delete_cache=(KEEP, KEEP)) as demo:
        session = gr.State(None, time_to_live=KEEP, delete_callback=lambda s: s and s.discard())
        with gr.Column(elem_id="ais-page"):
            component("top", tabs=[{"name": n, "label": t.label, "about": t.about} for n, t in TABS.items()])
            for name, tab in TABS.items():
                with gr.Column(elem_id=f"ais-tab-{name}", elem_classes="ais-tab"):
                    tab.build(session)
        api.build()
    return demo.queue(max_size=128, api_open=False)  # nothing passes the queue by


def _own_folder() -> None:
    """A temporary folder of this page alone, unless its owner named one: what is too much in it is removed."""
    if not os.environ.get("GRADIO_TEMP_DIR"):
        os.environ["GRADIO_TEMP_DIR"] = made = tempfile.mkdtemp(prefix="ais-page-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)


def launch_options() -> dict[str, Any]:
    """What `launch` needs for this page, here and on a Space."""
    names = ("-apple-system", "Segoe UI", "Roboto", "sans-serif")  # what machines have: none is fetched
    theme = gr.themes.Base(
        font=[gr.themes.Font(name) for name in names], font_mono=[gr.themes.Font("monospace")]
    )
    return {
        "theme": theme,
        "css": _css(),
        "favicon_path": str(PARTS / "icon.svg"),
        "app_kwargs": {"middleware": middleware.middleware()},
        "max_file_size": middleware.LARGEST,
        "max_threads": 160,  # most of them wait for their turn
        "ssr_mode": False,  # another server in front would answer without our headers
        "enable_monitoring": False,
        "run_history": False,  # it would keep people's images in the browser
        "state_session_capacity": 400,  # what is large in one has a bound of its own
        "footer_links": [],
    }


def _css() -> str:
    """The styles of the page and of its tabs, of which one is shown at a time: the first until the page has loaded."""
    sheets = [text("page.css")]
    for number, name in enumerate(TABS):
        loaded = "" if number else "[data-ais-tab]"
        sheets.append(
            f'body{loaded}:not([data-ais-tab="{name}"]) #ais-tab-{name} {{ display: none !important; }}\n'
        )
        sheets.append(text(f"tab_{name}.css"))
    return "".join(sheets)


def warm() -> None:
    """Prepare the default head, so that the first image is quick, and begin to fetch the owner's heads."""
    storage.sparing()
    gpu.prepare(EMBEDDED)
    offered.start()
