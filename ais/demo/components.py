"""The components of the page: those of Gradio whose HTML, CSS and JavaScript lie in `parts/`.

Templates are static: values reach the page through JavaScript's `textContent` only, never by interpolation,
since a template would run what is in them. (A subclass of `gr.HTML` would read better than `component`, but Gradio
writes a ``.pyi`` file beside the module of every subclass.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ais.demo import storage

PARTS = Path(__file__).parent / "parts"


def text(name: str) -> str:
    """A file of `parts/`; empty if there is none."""
    file = PARTS / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def component(name: str, value: Any = None, **props: Any) -> gr.HTML:
    """A component by its name: ``NAME.html``, ``NAME.css`` and ``NAME.js``."""
    return gr.HTML(
        value,
        html_template=text(f"{name}.html"),
        css_template=text(f"{name}.css"),
        js_on_load=text(f"{name}.js"),
        head=f"<script>{text('heat.js')}{text('requests.js')}</script>",
        apply_default_css=False,
        elem_id=f"ais-{name}",
        **props,
    )


def uploaded(value: Any) -> tuple[Path | None, str]:
    """Path and name of an uploaded file, from a component's raw value; no path for anything else.

    This is the one way in for a path: whatever a visitor sends, no other file of the server is opened, and none is
    fetched from elsewhere. What Gradio itself checks depends on the component and on words in the value.
    """
    path = storage.upload(value.get("path")) if isinstance(value, dict) else None
    if path is None:
        return None, ""
    name = value.get("orig_name")
    return path, name if isinstance(name, str) and name else path.name
