"""The page: what a person sees of AIS in the browser, and its API.

`page.py` is the layout and what happens on every event; `catalog.py` says which heads there are, `gpu.py` explains a
picture, `values.py` says what is shown, `components.py` loads the parts. A part is up to three files of one name:
`picker` (ways in for a picture), `choices` (head and method), `overlay` (the picture under its heatmap), `score`,
`maps` (feature maps of a place), `arrival` (a head from the Hub), `download` and `about`. `heat.js` holds the pure
functions that they share, `page.css` the colours and the layout.
"""

from ais.demo.page import build, launch_options, warm

__all__ = ["build", "launch_options", "warm"]
