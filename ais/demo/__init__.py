"""The page: what a person sees of AIS in the browser, and its API.

`page.py` is the layout and what happens on every event of the first tab; `catalog.py` says which heads there are,
`gpu.py` explains a picture, `values.py` says what is shown, `components.py` loads the parts, `session.py` keeps a
visitor's things. A part is up to three files of one name: `top` (the tabs), `picker` (ways in for a picture), `choices`
(head and method), `overlay` (the picture under its heatmap), `score`, `maps` (feature maps of a place), `arrival` (a
head from the Hub), `download` and `about`.

`similarity_tab.py` is the same for the second tab, `cohorts.py` what it computes, `shapes.py` the cohort that comes
with it. Its parts: `gather` (which cohort, which network), `cohort` (the pictures as a map) and `looks` (their
heatmaps).

`heat.js` holds what the parts share, `page.css` the colours and the layout.
"""

from ais.demo.page import build, launch_options, warm

__all__ = ["build", "launch_options", "warm"]
