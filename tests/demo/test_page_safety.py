"""What strangers can do to the page's server: the real `app.py` in a process of its own, asked over HTTP."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ais.demo import middleware
from ais.heads import shipped
from ais.heads.config import EMBEDDED
from helpers.browsing import check_sentence, coffee, running_app

JSON = {"Content-Type": "application/json"}

FILE = {"_type": "gradio.FileData"}

CHOICE = {"head": EMBEDDED, "method": "ais"}


class Site:
    """The page, as someone with a script sees it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.web = httpx.Client(base_url=url, timeout=120)
        config = self.web.get("/config").json()
        parts = {one["id"]: one["props"].get("elem_id") or one["type"] for one in config["components"]}
        self.events = [
            (one["id"], block, name, [parts[number] for number in one["inputs"]])
            for one in config["dependencies"]
            for block, name in one["targets"]
        ]

    def index(self, name: str) -> int:
        return next(index for index, _, event, _ in self.events if event == name)

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self.web.post("/gradio_api/upload", files={"files": (path.name, file)})
        return answer.json()[0]

    def ask(self, index: int, data: Any, event_data: Any = None, session: str = "someone") -> dict[str, Any]:
        """The last message of an event: what it gave, or the sentence why not."""
        block = next(block for number, block, *_ in self.events if number == index)
        body = {"fn_index": index, "data": data, "event_data": event_data, "session_hash": session}
        content = json.dumps(body | {"trigger_id": block})  # NaN, too
        joined = self.web.post("/gradio_api/queue/join", content=content, headers=JSON)
        if joined.status_code != 200:
            return {"refused": joined.json()["detail"]}
        with self.web.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    return message
        raise AssertionError("no answer")

    def call(self, data: Any, name: str = "explain") -> tuple[str, Any]:
        """What the API answers: the kind of event and its data."""
        called = self.web.post(f"/gradio_api/call/{name}", content=json.dumps(data), headers=JSON)
        if called.status_code != 200:
            return "refused", called.json()["detail"]
        text = self.web.get(f"/gradio_api/call/explain/{called.json()['event_id']}").text
        kind, said = re.findall(r"event: (complete|error)\ndata: (.*)", text)[-1]
        return kind, json.loads(said)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    Image.open(coffee()).resize((90, 60)).save(folder / "secret.png")
    (folder / "notes.txt").write_text("a secret")
    with running_app(shipped.heads_directory(), folder) as url:
        yield Site(url, folder)


def hostile(site: Site, path: str) -> list[Any]:
    """A file of the server, named in all the ways that a component might take."""
    uploads = site.folder / "gradio"
    return [
        path,
        f"/gradio_api/file={path}",
        f"file://{path}",
        {"path": path},
        {"path": path, "meta": FILE},
        {"path": path, "meta": FILE, "orig_name": "x.png", "url": f"file://{path}"},
        {"url": f"{site.web.base_url}gradio_api/file={path}", "meta": FILE},
        {"path": str(site.web.base_url) + "static/img/logo.svg", "meta": FILE},
        {"path": f"{uploads}/{'0' * 64}/../../{Path(path).name}", "meta": FILE},
        {"path": str(uploads / ".." / Path(path).name), "meta": FILE, "is_stream": True},
        {"path": path, "meta": FILE, "size": "much", "mime_type": 5},
        {"path": {"path": path, "meta": FILE}, "meta": FILE},
        {"value": {"path": path, "meta": FILE}},
        [{"path": path, "meta": FILE}],
        {"stimuli": "own", "images": [{"path": path, "meta": FILE}] * 3, "matrix": {"path": path, "meta": FILE}},
    ]  # fmt: skip


def answers(site: Site, path: str, index: int, inputs: list[str]) -> list[str]:
    """What an event answers to that file in every one of its inputs, without what is new every time."""
    found = []
    usual = [CHOICE if name == "ais-choices" else None for name in inputs]
    for place in range(len(inputs) + 1):
        for value in hostile(site, path):
            data = list(usual)
            if place < len(inputs):
                data[place] = value
            said = site.ask(index, data, value if place == len(inputs) else {"file": value})
            output = (said.get("output") or {}).get("data")
            text = json.dumps([said.get("refused"), output, (said.get("output") or {}).get("error")])
            assert '"grids"' not in text
            assert Path(path).name not in text
            found.append(re.sub(r'("run": ")\w+|ais-\w+|\d+\.\d+|"seconds": \S+', r"\1", text))
    return found


def test_no_event_opens_a_file_of_the_server_or_tells_of_it(site: Site) -> None:
    """Of all events that there are: a picture, a text and a file that is not there give the same answers."""
    assert {"picked", "chosen", "example", "added", "place", "save", "gathered", "selected", "click"} <= {
        event for _, _, event, _ in site.events
    }
    for index, _, _, inputs in site.events:
        picture, text, missing = (
            answers(site, str(site.folder / name), index, inputs)
            for name in ("secret.png", "notes.txt", "missing.png")
        )
        assert picture == missing
        assert text == missing


def test_the_api_opens_no_file_of_the_server(site: Site) -> None:
    for name in ("secret.png", "missing.png"):
        for value in hostile(site, str(site.folder / name)):
            kind, said = site.call({"data": [value, EMBEDDED, "ais"]})
            assert kind == "error"
            assert "There is no picture of this name here" in said["error"]
            kind, said = site.call({"image": value, "head": EMBEDDED, "method": "ais"}, "v2/explain")
            assert kind == "error"
            assert "There is no picture of this name here" in said["error"]


def test_an_upload_and_an_example_are_explained(site: Site) -> None:
    path = site.upload(site.folder / "secret.png")
    kind, said = site.call({"data": [{"path": path}, EMBEDDED, "ais"]})
    assert kind == "complete"
    assert 1 < said[0]["score"] < 7
    result = said[1]["path"]  # another's result is no upload
    kind, said = site.call({"data": [{"path": result, "meta": FILE}, EMBEDDED, "ais"]})
    assert kind == "error"
    said = site.ask(site.index("example"), [CHOICE, None], {"index": 0})
    assert said["output"]["data"][0]["grids"]


@pytest.mark.parametrize(
    "address",
    [
        "run/explain",
        "run/predict",
        "api/explain",
        "api/explain/",
        "proxy=http://127.0.0.1/",
        "file=http://127.0.0.1:1/x.png",
        "file=https://huggingface.co/",
        "stream/x",
        "process_recording",
        "deep_link",
        "vibe-edit",
        "runs",
        "dev/reload",
        "custom_component/1/client/component/x.js",
    ],
)
def test_what_the_page_does_not_need_is_closed(site: Site, address: str) -> None:
    for method in ("GET", "POST"):
        answer = site.web.request(method, f"/gradio_api/{address}", json={"data": [None, EMBEDDED, "ais"]})
        assert answer.status_code == 404
    assert site.web.get("/monitoring/summary").status_code == 404


def test_files_of_the_server_are_not_served(site: Site) -> None:
    for path in ("/etc/passwd", str(site.folder / "secret.png"), str(site.folder / "gradio/../secret.png")):
        assert site.web.get(f"/gradio_api/file={path}").status_code == 403


def test_an_upload_runs_no_script(site: Site) -> None:
    for name in ("page.html", "picture.svg"):
        file = site.folder / name
        file.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
        answer = site.web.get(f"/gradio_api/file={site.upload(file)}")
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_headers_let_the_page_stand_in_a_spaces_frame_alone(site: Site) -> None:
    answer = site.web.get("/")
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'self' https://huggingface.co" in policy
    assert "object-src 'none'" in policy
    assert "default-src 'self'" in policy
    assert "x-frame-options" not in answer.headers
    assert answer.headers["referrer-policy"]
    for address in ("/", "/config"):
        assert site.web.get(address).headers["content-encoding"] in ("gzip", "br")


@pytest.mark.parametrize("wrong", [None, 5, [], {}, True, [["x"]]])
@pytest.mark.parametrize("which", ["head", "method"])
def test_a_value_of_the_wrong_type_is_named(site: Site, which: str, wrong: Any) -> None:
    path = site.upload(site.folder / "secret.png")
    kind, said = site.call({"data": [{"path": path}, *(CHOICE | {which: wrong}).values()]})
    assert kind == "error"
    assert check_sentence(said["error"]).startswith(which)
    said = site.ask(site.index("picked"), [{"path": path, "meta": FILE}, CHOICE | {which: wrong}, None])
    assert check_sentence(said["output"]["data"][0]["error"]).startswith(which)


@pytest.mark.parametrize("wrong", [5, [], {}, True, [["x"]]])
def test_a_baseline_of_the_wrong_type_is_named(site: Site, wrong: Any) -> None:
    path = {"path": site.upload(site.folder / "secret.png"), "meta": FILE}
    said = site.ask(site.index("picked"), [path, CHOICE | {"baseline": wrong}, None])
    assert check_sentence(said["output"]["data"][0]["error"]).startswith("baseline should be text")


def test_a_baseline_that_there_is_not_gives_a_sentence(site: Site) -> None:
    path = {"path": site.upload(site.folder / "secret.png"), "meta": FILE}
    for method, baseline, words in (
        ("ais", "\x00<b>", "There is no baseline"),
        ("contribution", "zero", "has no baseline 'zero'"),
        ("gradcam", "typical", "leave out the baseline"),
    ):
        choice = {"head": EMBEDDED, "method": method, "baseline": baseline}
        said = site.ask(site.index("picked"), [path, choice, None])
        assert words in check_sentence(said["output"]["data"][0]["error"])


def test_what_is_missing_is_named(site: Site) -> None:
    path = {"path": site.upload(site.folder / "secret.png")}
    for data, words in (
        ({"data": [path]}, "head is missing"),
        ({"data": [path, EMBEDDED]}, "method is missing"),
        ({"data": []}, "no picture"),
        ({"data": {}}, "data should be a list"),
        ({}, "data should be a list"),
        ([], "JSON object"),
    ):
        kind, said = site.call(data)
        assert kind in ("error", "refused")
        assert words in check_sentence(said if isinstance(said, str) else said["error"])
    kind, said = site.call({"image": path, "heed": EMBEDDED}, "v2/explain")
    assert "There is no 'heed'. Send: image, head, method." in said
    assert site.call({"image": path}, "v2/explain")[0] == "complete"
    assert "no function 'other'" in site.call({"data": []}, "other")[1]


def anything(generator: random.Random, depth: int = 0) -> Any:
    """A value of JSON, small, of any kind."""
    words = [
        "",
        "x",
        "head",
        "method",
        EMBEDDED,
        "ais",
        "occlusion?",
        "own",
        "/etc/passwd",
        "\x00",
        "é" * 300,
    ]
    kinds = ["none", "word", "number", "flag"] + ["list", "object"] * (depth < 3)
    kind = generator.choice(kinds)
    if kind == "word":
        return generator.choice(words)
    if kind == "number":
        return generator.choice([0, -1, 1e300, 5, 0.5, 10**30, float("nan"), float("inf")])
    if kind == "flag":
        return generator.random() < 0.5
    if kind == "list":
        return [anything(generator, depth + 1) for _ in range(generator.randrange(4))]
    if kind == "object":
        keys = [
            *words[2:4],
            "path",
            "meta",
            "url",
            "stimuli",
            "images",
            "matrix",
            "index",
            "x",
            "y",
            "kind",
            "asked",
        ]
        keys += ["backbone", "one", "other", "scale", "member", "__type__", "value"]
        return {generator.choice(keys): anything(generator, depth + 1) for _ in range(generator.randrange(5))}
    return None


def test_whatever_comes_in_gets_a_sentence(site: Site) -> None:
    """Every event with values of any kind; that the log holds no traceback is seen at the end of all tests here."""
    generator = random.Random(0)
    for index, _, event, inputs in site.events:
        for _ in range(15):
            data = [anything(generator) for _ in inputs[: generator.randrange(len(inputs) + 2)]]
            said = site.ask(index, data, anything(generator), f"s{generator.randrange(5)}")
            sentences = [said.get("refused"), (said.get("output") or {}).get("error")]
            values = (said.get("output") or {}).get("data") or []
            sentences += [
                value.get("error") or value.get("reason") for value in values if isinstance(value, dict)
            ]
            for sentence in filter(None, sentences):
                check_sentence(sentence)
            assert event


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("queue/join", b"{"),
        ("queue/join", b"[" * 100_000),
        ("queue/join", b'{"fn_index": 99, "data": [], "session_hash": "x"}'),
        ("queue/join", b'{"fn_index": "0", "data": [], "session_hash": "x"}'),
        ("queue/join", b'{"fn_index": 0, "data": []}'),
        ("queue/join", b'{"fn_index": 0, "data": [], "session_hash": {}}'),
        ("queue/join", b'{"data": "' + b"x" * 300_000 + b'"}'),
        ("component_server", b'{"component_id": {}, "fn_name": "x", "data": 1, "session_hash": "x"}'),
        ("component_server", b'{"component_id": 1, "fn_name": "__init__", "data": 1, "session_hash": "x"}'),
        ("component_server", b"{}"),
        ("cancel", b"{}"),
        ("reset", b'{"event_id": []}'),
        ("upload", b"no form"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(site: Site, address: str, body: bytes) -> None:
    answer = site.web.post(f"/gradio_api/{address}", content=body, headers=JSON)
    assert 400 <= answer.status_code < 500


def test_an_upload_has_a_limit(site: Site) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(110):
            yield b"0" * 1_000_000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = site.web.post("/gradio_api/upload", content=endless(), headers=headers)
    except httpx.WriteError:  # the server hung up while it was being sent
        return
    assert answer.status_code == 413


@pytest.mark.slow
def test_an_upload_that_stalls_gives_its_place_to_others(site: Site) -> None:
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with ExitStack() as stack:
        stalled = []
        for _ in range(middleware.AT_ONCE):
            address = (site.web.base_url.host, site.web.base_url.port)
            stalled.append(stack.enter_context(socket.create_connection(address, 40)))
            stalled[-1].sendall(head.encode())
        assert site.upload(site.folder / "secret.png").startswith("/")  # it waits until they are sent away
        for one in stalled:
            answer = b"".join(iter(lambda one=one: one.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"came too slowly" in answer


def test_half_a_character_breaks_no_answer(site: Site) -> None:
    file = {"path": site.upload(site.folder / "secret.png")}
    kind, said = site.call({"data": [file, "\ud800", "ais"]})
    assert kind == "error"
    assert "There is no head '?'" in said["error"]
    said = site.ask(site.index("added"), [], {"asked": "\udfff/x y", "\ud800": 1})
    assert check_sentence(said["output"]["data"][0]["reason"])
    said = site.ask(site.index("picked"), [file | {"meta": FILE, "orig_name": "\ud800.png"}, CHOICE, None])
    assert said["output"]["data"][0]["grids"]


def test_a_stream_of_nobody_is_refused_quietly(site: Site) -> None:
    def lines() -> int:
        return (site.folder / "log").read_text().count("\n")

    before = lines()
    for address in ("queue/data?session_hash=never", "call/explain/never"):
        assert site.web.get(f"/gradio_api/{address}").status_code == 404
    assert lines() == before
