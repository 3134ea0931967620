"""What the page costs under load: many visitors at once, and whether its memory and its disk stay flat.

    python benchmarks/load.py                    # starts the page itself: 50 visitors, 1,000 requests
    python benchmarks/load.py --url http://127.0.0.1:7860/ --pid PID --folder DIR    # one that runs already

Visitors upload pictures and have them explained on the page and through its API, click on places, save files, and send
what is wrong. Only addresses of this machine are accepted: a load run is no way to treat someone else's server.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
HEAD = "beauty-efficientnet-lite0"
MARKS = (100, 250, 500, 750, 1000, 1500, 2000)
SHARES = {"page": 34, "api": 20, "place": 20, "save": 12, "wrong": 10, "gradcam": 3, "occlusion": 1}


def picture(seed: int) -> bytes:
    """A smooth picture that no other visitor has; one in twelve is large."""
    generator = np.random.default_rng(seed)
    width, height = (3000, 2000) if seed % 12 == 0 else (480, 360)
    small = generator.integers(0, 256, (6, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()


class Visitor:
    """One person at the page."""

    def __init__(self, url: str, number: int, targets: dict[str, tuple[int, int]]) -> None:
        self.url, self.number, self.targets = url, number, targets
        self.web = httpx.Client(base_url=url, timeout=600)
        self.session = f"load{number}x{random.randrange(1 << 40):x}"
        self.random = random.Random(number)
        self.has_picture = False
        self.count = self.refused = 0

    def upload(self) -> dict[str, Any]:
        self.count += 1
        file = ("photo.jpg", picture(self.number * 1000 + self.count), "image/jpeg")
        answer = self.web.post("/gradio_api/upload", files={"files": file})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}

    def post(self, address: str, body: dict[str, Any]) -> Any:
        """Ask, and ask again in a moment while the page is full."""
        while (answer := self.web.post(address, json=body)).status_code == 503:
            self.refused += 1
            time.sleep(self.random.uniform(0.5, 1.5))
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code} {answer.text[:100]}")
        return answer.json()

    def event(self, name: str, data: list[Any], event_data: Any = None) -> Any:
        """An event of the page; the first value that it gives."""
        index, trigger = self.targets[name]
        body = {
            "data": data,
            "fn_index": index,
            "trigger_id": trigger,
            "event_data": event_data,
            "session_hash": self.session,
        }
        self.post("/gradio_api/queue/join", body)
        with self.web.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as lines:
            for line in lines.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    if not message["success"]:
                        raise RuntimeError(str(output.get("error") or output))
                    value = (output.get("data") or [None])[0]
                    if isinstance(value, dict) and value.get("error"):
                        raise RuntimeError(value["error"])
                    return value
        raise RuntimeError("the stream ended without an answer")

    def api(self, *data: Any) -> None:
        """A call of the API, and both files that it gives."""
        called = self.post("/gradio_api/call/explain", {"data": list(data)})
        answer = self.web.get(f"/gradio_api/call/explain/{called['event_id']}").text
        last = [
            block for block in answer.split("\n\n") if block.startswith(("event: complete", "event: error"))
        ][-1]
        event, _, data = last.partition("\ndata: ")
        if event == "event: error":
            said = json.loads(data)
            raise RuntimeError(str(said.get("error") if isinstance(said, dict) else said))
        for file in json.loads(data)[1:]:
            self.web.get("/gradio_api/file=" + file["path"]).raise_for_status()

    def request(self, kind: str) -> None:
        if kind in ("place", "save") and not self.has_picture:
            kind = "page"
        if kind in ("page", "gradcam", "occlusion"):
            method = "ais" if kind == "page" else kind
            shown = self.event("picked", [self.upload(), {"head": HEAD, "method": method}, None])
            self.has_picture = True
            self.web.get("/gradio_api/file=" + shown["picture"]["path"]).raise_for_status()
        elif kind == "place":
            self.event("place", [None], {"x": self.random.uniform(0, 480), "y": self.random.uniform(0, 360)})
        elif kind == "save":
            kind, scale = self.random.choice(["npy", "json"]), self.random.choice(["relative", "points"])
            file = self.event("save", [None], {"kind": kind, "scale": scale})
            self.web.get("/gradio_api/file=" + file["path"]).raise_for_status()
        elif kind == "api":
            self.api(self.upload(), HEAD, "ais")
        else:
            wrong = [{"path": "/etc/passwd"}, None, 5, {}, "x"]
            self.api(self.random.choice(wrong), self.random.choice([HEAD, None, []]), "ais")


def memory(pid: int) -> float:
    """MB of memory in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def disk(folder: Path) -> float:
    """MB of the files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # it has just been removed
            continue
    return total / 1e6


def targets(url: str) -> dict[str, tuple[int, int]]:
    """For every event of the page by name: the index of its function, and the part it comes from."""
    config = httpx.get(url + "config", timeout=60).json()
    return {
        name: (one["id"], block) for one in config["dependencies"] for block, name in one["targets"] if name
    }


def run(url: str, pid: int, folder: Path, visitors: int, requests: int) -> None:
    events = targets(url)
    kinds = random.Random(0).choices([*SHARES], [*SHARES.values()], k=requests)
    left, lock, done = list(enumerate(kinds)), threading.Lock(), 0
    times: dict[str, list[float]] = {}
    errors: Counter[str] = Counter()
    start = time.monotonic()

    def visit(visitor: Visitor) -> None:
        nonlocal done
        while True:
            with lock:
                if not left:
                    return
                _, kind = left.pop(0)
            began = time.monotonic()
            try:
                visitor.request(kind)
            except Exception as error:
                with lock:
                    errors[f"{kind}: {error if str(error) else type(error).__name__}"[:160]] += 1
            with lock:
                times.setdefault(kind, []).append(time.monotonic() - began)
                done += 1
                if done in MARKS or done == requests:
                    print(
                        f"{done:5} requests  {time.monotonic() - start:6.0f} s  "
                        f"{memory(pid):7.0f} MB memory  {disk(folder):7.1f} MB disk",
                        flush=True,
                    )

    print(f"    0 requests       0 s  {memory(pid):7.0f} MB memory  {disk(folder):7.1f} MB disk", flush=True)
    people = [Visitor(url, number, events) for number in range(visitors)]
    threads = [threading.Thread(target=visit, args=(visitor,)) for visitor in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(5)  # what was at work ends, and any request has the page tidy up
    httpx.post(url + "gradio_api/cancel", json={})
    time.sleep(3)
    print(f"afterwards              {memory(pid):15.0f} MB memory  {disk(folder):7.1f} MB disk")
    print(f"told to come back later: {sum(visitor.refused for visitor in people)} times")
    for kind, seconds in sorted(times.items()):
        high = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        print(f"{kind:10} {len(seconds):5}  median {statistics.median(seconds):6.2f} s  95 % {high:6.2f} s")
    for sentence, count in errors.most_common():
        print(f"{count:5}  {sentence}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a page that runs already, on this machine")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--folder", type=Path, help="its temporary folder")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    if options.url:
        if urlparse(options.url).hostname not in ("127.0.0.1", "localhost", "::1"):
            parser.error("--url is not an address of this machine.")
        if not options.pid or not options.folder:
            parser.error("--url needs --pid and --folder, whose memory and disk are measured.")
        run(options.url, options.pid, options.folder, options.visitors, options.requests)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": folder,
        }
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **settings})
        try:
            for _ in range(600):
                try:
                    httpx.get(url, timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            time.sleep(10)  # the default head is being prepared
            run(url, process.pid, Path(folder), options.visitors, options.requests)
        finally:
            process.kill()  # nothing of it is needed any more
            process.wait(60)


if __name__ == "__main__":
    main()
