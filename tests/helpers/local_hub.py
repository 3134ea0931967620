"""A Hugging Face Hub on this machine, for the real client: repositories in memory, and failures on demand.

It speaks what `huggingface_hub` 2.4 asks for when it creates, commits, lists and fetches, over a real socket.
Importing it sets the environment that the client reads when it is imported itself, so it must come first.

    hub.add_head("user/head", folder)
    hub.fail("GET", "model.safetensors", CutShort(1000), times=1)
    ...
    assert not hub.seen("POST", "/commit/")
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from fastapi import Response
from fastapi.responses import JSONResponse

from helpers.hub_endpoints import Commit, Repo, application, now
from helpers.hub_failures import Exchange, Released

HOST = "127.0.0.1"

USER = "user"


def _reserve() -> socket.socket:
    """A port that nobody else gets: connections to it are refused until a server listens there, too."""
    held = _bind(0)
    atexit.register(held.close)
    return held


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


def _prepare() -> tuple[int, int, Path]:
    """The two ports and the client's home, after the environment says so and nothing of the developer's is left."""
    port, other = (_reserve().getsockname()[1] for _ in range(2))
    home = Path(tempfile.mkdtemp(prefix="local-hub-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name == "TRANSFORMERS_OFFLINE":
            del os.environ[name]
    os.environ.update(
        HF_ENDPOINT=f"http://{HOST}:{port}",
        HF_HOME=str(home),
        HF_HUB_DISABLE_TELEMETRY="1",
        NO_PROXY=f"{HOST},localhost",
        no_proxy=f"{HOST},localhost",
    )
    return port, other, home


PORT, OTHER_PORT, HOME = _prepare()

# That an answer is broken off is meant; what else uvicorn reports is a fault of ours.
logging.getLogger("uvicorn.error").addFilter(
    lambda record: "ASGI callable returned without" not in record.msg
)


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str  # with everything unquoted, without the query
    authorization: str | None  # the header's value
    range: str | None


@dataclass
class Failure:
    """Requests that are answered by a failure, so many times more."""

    methods: str
    path: str
    how: Callable[[Exchange], Awaitable[None]]
    left: float


class LocalHub:
    """The Hub, from outside: what it holds, what was asked of it, and how it fails."""

    port, other_port, home = PORT, OTHER_PORT, HOME
    url = f"http://{HOST}:{PORT}"

    def __init__(self) -> None:
        self.repositories: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, tuple[str, bool]] = {}  # token → user, and whether it may write
        self.requests: list[Call] = []
        self.elsewhere: list[Call] = []
        self.application = application(self)
        self._failures: list[Failure] = []
        self._era = 0
        self._server: tuple[uvicorn.Server, threading.Thread] | None = None

    # A test's beginning and end.

    @contextmanager
    def lent(self, monkeypatch: Any, folder: Path) -> Iterator[LocalHub]:
        """The Hub for one test: empty, up, nobody logged in, nothing cached; then it forgets all of it."""
        from huggingface_hub import constants

        self._clear()
        self.accept()
        shutil.rmtree(self.home, ignore_errors=True)
        self._processes = folder
        self._monkeypatch = monkeypatch
        # A call that a test left behind in a thread may retry in the next one: its user agent says whose it is.
        monkeypatch.setattr(constants, "HF_HUB_USER_AGENT_ORIGIN", self._origin)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield self
        finally:
            self._clear()

    def _clear(self) -> None:
        self._era += 1  # whatever waits, waits no more
        for kept in (self.repositories, self.collections, self.tokens, self.requests, self.elsewhere):
            kept.clear()
        self._failures.clear()

    @property
    def _origin(self) -> str:
        return f"test-{self._era}"

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to use this Hub, with a cache of its own under `HF_HOME`."""
        return {**os.environ, "HF_HOME": str(self._processes), "HF_HUB_USER_AGENT_ORIGIN": self._origin}

    def login(self, token: str = "hf_secret", user: str | None = USER, *, write: bool = True) -> None:
        """Give this process a token; with no user, it is one that the Hub does not know."""
        self._monkeypatch.setenv("HF_TOKEN", token)
        if user is not None:
            self.tokens[token] = user, write

    # What it holds.

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        revision: str = "main",
        *,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Put files into a repository, new or not, as one commit on a branch, new or not."""
        repo = self.repositories.get(repo_id) or self.create(repo_id)
        repo.private, repo.gated = private, gated
        repo.branches.setdefault(revision, repo.branches["main"])
        return repo.commit(revision, "Add files", {**repo.at(revision).files, **files}).id

    def add_head(
        self, repo_id: str, folder: Path, revision: str = "main", private: bool = False, gated: bool = False
    ) -> str:
        """Put a folder's files into a repository; returns the commit."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.add(repo_id, files, revision, private=private, gated=gated)

    def add_collection(self, slug: str, *repo_ids: str, private: bool = False) -> None:
        self.collections[slug] = {
            "slug": slug,
            "title": slug,
            "owner": {"name": slug.split("/")[0]},
            "items": [
                {"_id": f"{place:024x}", "id": repo_id, "type": "model", "position": place}
                for place, repo_id in enumerate(repo_ids)
            ],
            "lastUpdated": now(),
            "position": 0,
            "private": private,
            "theme": "blue",
            "upvotes": 0,
        }

    def create(self, key: str) -> Repo:
        """An empty repository, with the commit that every one on the Hub begins with."""
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        if key.startswith("spaces/"):
            files["README.md"] = (
                b"---\ntitle: New\nemoji: x\ncolorFrom: red\ncolorTo: gray\nsdk: gradio\n---\n"
            )
        self.repositories[key] = repo = Repo(key)
        repo.commit("main", "initial commit", files)
        return repo

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """All files of a repository (a Space is ``spaces/user/name``), with the Hub's own `.gitattributes`."""
        return dict(self.repositories[repo_id].at(revision).files)

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """The history of a revision, newest first; the last is the Hub's own."""
        repo = self.repositories[repo_id]
        return list(repo.history(repo.at(revision)))

    # What was asked of it.

    def seen(self, methods: str = "", path: str = "") -> list[Call]:
        """The requests so far whose method is among ``GET|HEAD`` (any, if empty) and in whose path a pattern is."""
        return [call for call in list(self.requests) if _matches(methods, path, call)]

    def wait_for(self, methods: str, path: str, seconds: float = 60) -> Call:
        """The first such request, once it has come."""
        end = time.monotonic() + seconds
        while not (found := self.seen(methods, path)):
            assert time.monotonic() < end, f"no {methods} {path} in {seconds} s"
            time.sleep(0.01)
        return found[0]

    # How it fails.

    def fail(
        self, methods: str, path: str, how: Callable[[Exchange], Awaitable[None]], times: int | None = None
    ) -> None:
        """Answer requests so, the first so many times or always; `methods` and `path` are as in `seen`.

        What bodies suffer is for GET: asked for by HEAD, a file is whole.
        """
        self._failures.append(Failure(methods, path, how, float("inf") if times is None else times))

    def heal(self) -> None:
        """All works again."""
        self._failures.clear()

    async def pause(self, seconds: float) -> None:
        """Wait, for no longer than the test runs and the Hub is up."""
        era, end = self._era, time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.02)
            if self._era != era or self._server is None:
                raise Released

    def accept(self) -> None:
        """Listen on both ports; at once if it does so already."""
        if self._server is None:
            config = uvicorn.Config(
                self._serve,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                log_config=None,
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            sockets = [_bind(port) for port in (self.port, self.other_port)]
            thread = threading.Thread(target=server.run, args=(sockets,), name="local-hub", daemon=True)
            self._server = server, thread
            thread.start()
            while not server.started:
                time.sleep(0.005)

    def refuse(self) -> None:
        """Break all connections and refuse new ones, until `accept`."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.should_exit = server.force_exit = True
            thread.join()

    async def _serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["raw_path"].decode()  # still quoted
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        exchange = Exchange(self, scope | {"path": path}, receive, send)
        if (
            path == "/api/agent-harnesses"
        ):  # the client's own housekeeping, once in a process: not a test's matter
            return await JSONResponse({"standardEnvVars": [], "harnesses": {}})(scope, receive, send)
        origin = re.search(r"origin/(test-\d+)", headers.get("user-agent", ""))
        if origin and origin[1] != self._origin:
            return await Response(status_code=410)(scope, receive, send)
        call = Call(scope["method"], unquote(path), headers.get("authorization"), headers.get("range"))
        (self.requests if scope["server"][1] == self.port else self.elsewhere).append(call)
        for failure in list(self._failures):
            if failure.left > 0 and _matches(failure.methods, failure.path, call):
                failure.left -= 1
                try:
                    return await failure.how(exchange)
                except Released:
                    return  # without an answer: a status of 500, or the connection breaks where one had begun
        await exchange.proceed()


def _matches(methods: str, path: str, call: Call) -> bool:
    return call.method in (methods or call.method).split("|") and re.search(path, call.path) is not None


def _matches(methods: str, path: str, call: Call) -> bool:
    return call.method in (methods or call.method).split("|") and re.search(path, call.path) is not None
