"""The page's API: what a program calls, with `gradio_client` or over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ais.attribution.explanation import Explanation
from ais.attribution.methods import METHODS
from ais.demo import catalog, gpu, storage
from ais.demo.catalog import offered
from ais.demo.components import uploaded
from ais.demo.queues import COMPUTE
from ais.demo.session import error_message, text_field
from ais.errors import ImageError
from ais.heads.config import EMBEDDED

NO_IMAGE = "There is no picture of this name here: none was sent, or it is no longer on the server. Send it as image."


def explain(image: Any, head: str = EMBEDDED, method: str = "ais") -> tuple[dict[str, Any], str, str]:
    """The score that people would give a picture, and where in the picture it comes from.

    The numbers are those of `ais explain` with this head and method and no other option: the baseline is the method's
    own, and the heatmap is on the scale relative. The JSON's grids hold its cells on every scale, points among them.

    Args:
        image: the picture: JPEG, PNG, WebP, GIF, BMP or TIFF.
        head: what scores it: one that comes with AIS, or one on the Hub, user/repo or user/repo@revision.
        method: a key of `ais.attribution.methods.METHODS`.

    Returns:
        A JSON object with score, low, high, percentile, head, backbone, method, seconds and more; the picture
        with the heatmap over it (PNG); the heatmap at the picture's size (.npy, NaN where not seen). Of a picture with
        more than 16 megapixels both are smaller than it; heatmap_size says how large.
    """
    try:
        path, _ = uploaded(image)
        if path is None:
            raise ImageError(NO_IMAGE)
        said = {"head": head, "method": method}
        name, method = text_field(said, "head", EMBEDDED).strip(), text_field(said, "method", "ais")
        found = offered.find(name) or catalog.fetch_for_visitor(name)
        files: list[Path] = []

        def save(made: Explanation) -> None:
            alone = replace(made, members=())
            names = ["overlay.png", "heatmap.npy"]
            files.extend(alone.save(storage.new_folder(), files=names, max_pixels=storage.SAVED))

        public = not offered.owned(found.head)
        with storage.using(path):
            choices = gpu.Choices(method)
            made = gpu.explain_image(path, found.head, choices, public=public, finish=save)
        return made.to_dict(max_pixels=storage.SAVED), *map(str, files)  # type: ignore[return-value]
    except Exception as error:
        raise gr.Error(error_message(error, head), print_exception=False) from error


def build() -> None:
    """Let the page answer these calls."""
    gr.Button(visible=False).click(
        explain,
        [
            gr.Image(visible=False, label="image"),
            gr.Textbox(EMBEDDED, visible=False, label="head"),
            gr.Dropdown([*METHODS], value="ais", visible=False, label="method"),
        ],
        [
            gr.JSON(visible=False, label="result"),
            gr.File(visible=False, label="overlay"),
            gr.File(visible=False, label="heatmap"),
        ],
        api_name="explain",
        api_description=_description(),
        preprocess=False,  # the file as it came: `ais.images.reading` reads it, as everywhere
        **COMPUTE,
    )


def _description() -> str:
    """What `explain` does, what is fixed, and what its methods show."""
    summary = (explain.__doc__ or "").partition("Args:")[0]
    return " ".join(
        [*summary.split(), "Methods:", *(f"{name}: {method.about}" for name, method in METHODS.items())]
    )
