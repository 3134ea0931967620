"""The page: what a person sees of AIS in the browser, and its API.

`shell.py` puts the page together and says how it is launched. A tab is a file in `tabs/` and an entry of its `TABS`:
the layout, what happens on every event, and what is shown. `api.py` is what programs call.

What the tabs share: `components.py` loads the components, `catalog.py` says which heads there are (`folders.py`: those
of the owner), `gpu.py` explains an image, `values.py` says what is shown of it, `session.py` keeps a visitor's things,
`queues.py` says how many requests are answered at once. `shapes.py` draws the images that come with the Similarity tab.

What guards the server: `middleware.py` checks what comes in, `turns.py` says who computes, `visitors.py` who asks, and
`storage.py` what stays on disk.

`parts/` holds what runs in the browser. A component is up to three files of one name there: ``NAME.html``, ``NAME.css``
and ``NAME.js``. `heat.js` holds what they share, `requests.js` what becomes of their requests, `page.css` the colours
and what is common; ``tab_NAME.css`` is the layout of a tab.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # of which it makes a table after every request

from ais.demo.shell import build, launch_options, warm

__all__ = ["build", "launch_options", "warm"]
