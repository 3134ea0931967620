"""How the local Hub can fail: each of these is called in place of the proper answer, which it can ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders

from helpers.hub_endpoints import oid

if TYPE_CHECKING:
    from helpers.local_hub import LocalHub


class Released(Exception):
    """A pause outlived its test, or the Hub."""


@dataclass
class Exchange:
    """A request, with the proper answer to it within reach."""

    hub: LocalHub
    scope: dict[str, Any]
    receive: Callable[[], Awaitable[Any]]
    send: Callable[[Any], Awaitable[None]]

    async def proceed(self) -> None:
        await self.hub.application(self.scope, self.receive, self.send)

    async def answer(self) -> tuple[int, MutableHeaders, bytes]:
        """The proper answer to the request without its Range, kept from the client."""
        sent: list[dict[str, Any]] = []

        async def keep(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(name, value) for name, value in self.scope["headers"] if name != b"range"]
        await self.hub.application(self.scope | {"headers": headers}, self.receive, keep)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], MutableHeaders(raw=sent[0]["headers"]), body

    async def begin(self, status: int, headers: MutableHeaders) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers.raw})

    async def body(self, content: bytes, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": content, "more_body": more})


@dataclass(frozen=True)
class Status:
    """A status instead of the answer."""

    code: int
    message: str = "made to fail"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, exchange: Exchange) -> None:
        headers = {"X-Error-Message": self.message, **self.headers}
        response = JSONResponse({"error": self.message}, self.code, headers)
        await response(exchange.scope, exchange.receive, exchange.send)


TOO_MANY = Status(429, "Too Many Requests", {"Retry-After": "120"})

BAD_TOKEN = Status(401, "Invalid credentials in Authorization header")


@dataclass(frozen=True)
class Hang:
    """Nothing for some seconds, then the proper answer: a commit is made only then, if the client is still there."""

    seconds: float = 60

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.hub.pause(self.seconds)
        await exchange.proceed()


@dataclass(frozen=True)
class Late:
    """What is asked for is done at once, a commit too, but its answer comes some seconds later."""

    seconds: float = 60

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        await exchange.hub.pause(self.seconds)
        await exchange.begin(status, headers)
        await exchange.body(body)


@dataclass(frozen=True)
class CutShort:
    """The whole length is announced, so many bytes come, the connection ends; a Range is not heeded."""

    size: int = 1000

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        await exchange.begin(status, headers)
        await exchange.body(body[: min(self.size, len(body) - 1)], more=True)


@dataclass(frozen=True)
class Flipped:
    """One bit of the body is another: all else is as it should be."""

    position: int = -1

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        changed = bytearray(body)
        changed[self.position] ^= 1
        await exchange.begin(status, headers)
        await exchange.body(bytes(changed))


@dataclass(frozen=True)
class Padded:
    """The file has so many bytes, filled with spaces at its end; to HEAD, that is what its length claims."""

    size: int

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        headers["Content-Length"] = str(self.size)
        await exchange.begin(status, headers)
        if exchange.scope["method"] == "HEAD":
            return await exchange.body(b"")
        await exchange.body(body[: self.size], more=True)
        for start in range(len(body), self.size, 1 << 20):
            await exchange.body(b" " * min(1 << 20, self.size - start), more=True)
        await exchange.body(b"")


@dataclass(frozen=True)
class Dribble:
    """The body comes in pieces, over some seconds."""

    seconds: float = 60
    pieces: int = 100

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        await exchange.begin(status, headers)
        step = -(-len(body) // self.pieces)
        for start in range(0, len(body), step):
            await exchange.body(body[start : start + step], more=True)
            await exchange.hub.pause(self.seconds / self.pieces)
        await exchange.body(b"")


@dataclass(frozen=True)
class Redirect:
    """The file is on another host (its calls are in `hub.elsewhere`), as large files are on the real Hub.

    Not `linked`, the redirect says nothing of commit and size, as that of a captive portal.
    """

    linked: bool = True

    async def __call__(self, exchange: Exchange) -> None:
        status, headers, body = await exchange.answer()
        if status >= 400:
            return await exchange.proceed()
        etag = headers["ETag"]
        said = {"Location": f"http://localhost:{exchange.hub.other_port}/blobs/{oid(body)}"}
        if self.linked:
            said |= {"X-Repo-Commit": headers["X-Repo-Commit"]}
            said |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(body))}
        await Response(status_code=302, headers=said)(exchange.scope, exchange.receive, exchange.send)
