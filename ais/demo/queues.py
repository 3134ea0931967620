"""How many requests of each sort are answered at once: options of Gradio's events."""

from __future__ import annotations

from typing import Any

# All that compute wait in Gradio's threads, where `gpu.turns` says whose turn it is and who has too many waiting.
COMPUTE: dict[str, Any] = {"concurrency_limit": 100, "concurrency_id": "compute"}
FETCH: dict[str, Any] = {"concurrency_limit": 8, "concurrency_id": "fetch"}  # whatever waits for the Hub
QUICK: dict[str, Any] = {"concurrency_limit": 4, "concurrency_id": "quick"}  # waits for no computing
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # no program may call it
