"""The page: `python app.py`. Host and port: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""

from __future__ import annotations

import contextlib
import logging

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  # on a Space; before anything touches CUDA

from ais import demo as page

demo = page.build()

if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("ais").setLevel(logging.INFO)
    page.warm()
    demo.launch(**page.launch_options())
