"""The page: `python app.py`. Host and port: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""

from __future__ import annotations

import logging

from ais import demo as page

demo = page.build()

if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("ais").setLevel(logging.INFO)
    page.warm()
    demo.launch(**page.launch_options())
