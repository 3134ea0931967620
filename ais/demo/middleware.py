"""What goes around the page: it checks what comes in over HTTP before Gradio sees it, and sets headers of all answers.

Gradio opens more addresses than this page needs, among them some that fetch what a visitor names, and some that pass
the queue by. Here is the list of those that are open. What a request carries is brought into the form that the page
sends: a file is the path of an upload and nothing else, and no value is missing.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ais.demo import storage, values
from ais.demo.visitors import address, listeners
from ais.images.guards import MAX_BYTES

logger = logging.getLogger(__name__)

API = "/gradio_api/"
OPEN = re.compile(
    r"queue/(join|data|status)|call/(v2/)?\w+(/\w+)?|upload|upload_progress|component_server|cancel|reset"
    r"|heartbeat/\w+|info|openapi\.json|startup-events|app_id|user|token|login_check|theme\.css|file=(?!https?:|\w+://).+"
)
CLOSED = re.compile(r"/(monitoring|login|logout|dev|pwa_icon)(/.*)?")
LARGEST = MAX_BYTES  # bytes of an upload: those of the largest picture that is read
LARGEST_REQUEST = 256 << 10  # bytes of any other request
AT_ONCE = 8  # uploads from one address that are received at the same time; the others wait
IDLE, QUEUED = 15.0, 60.0  # seconds that may pass without a byte, and that an upload waits for others to end
SLOWEST = 8_000  # bytes a second of an upload, on average after `IDLE`
DEEPEST = 12  # lists and objects in each other
COMPRESSED = re.compile(r"/|/config/?|/gradio_api/(info|openapi\.json)/?|/(gradio_api/)?theme\.css")

# Gradio's page needs inline scripts and styles, and builds functions from the text of `js_on_load`.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space",
    ]
)
FILE_POLICY = "default-src 'none'; sandbox"  # what people uploaded is shown, never run
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
}


class _Refusal(Exception):
    """A request that does not fit: the status, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class _Nothing(_Refusal):
    """An address that is closed, or none."""

    def __init__(self) -> None:
        super().__init__(404, "There is nothing at this address.")


class _TooSlow(_Refusal):
    """What was announced does not come."""

    def __init__(self) -> None:
        super().__init__(
            408, "The file came too slowly, or not at all. Send it again, or choose a smaller one."
        )


class RequestGuard:
    """Lets in what the page and its API send, in their form, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._uploading: dict[str, tuple[asyncio.Semaphore, int]] = {}
        listeners.watching = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                file = "/gradio_api/file" in scope["path"]
                headers["Content-Security-Policy"] = FILE_POLICY if file else POLICY
            await send(message)

        try:
            await self._enter(scope, receive, answer)
        except _Refusal as refusal:
            if not begun:
                close = (
                    {"Connection": "close"} if refusal.status in (408, 413, 429) else {}
                )  # the rest is not read
                await JSONResponse({"detail": refusal.sentence}, refusal.status, close)(
                    scope, receive, answer
                )
        except Exception as error:
            logger.warning("%s %s: %s", scope["method"], scope["path"], type(error).__name__)
            logger.debug("what came in did not fit", exc_info=error)
            if not begun:
                said = "This request does not fit. See /gradio_api/info for what the page takes."
                await JSONResponse({"detail": said}, 400)(scope, receive, answer)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        at = path.removeprefix(scope.get("root_path") or "")
        if CLOSED.fullmatch(at):
            raise _Nothing
        if not at.startswith(API):
            return await self.app(scope, receive, send)
        name = at[len(API) :]
        if not OPEN.fullmatch(name.rstrip("/")):
            raise _Nothing
        name = name.rstrip("/")
        if method == "POST" and name == "upload":
            await self._upload(scope, receive, send)
            storage.tidy()
        elif method == "POST":
            body = _clean(scope["app"].get_blocks(), name, await _read(scope, receive))
            await self.app(_sized(scope, len(body)), _replay(body, receive), send)
            storage.tidy()
        elif method == "GET" and (key := _stream(name, scope)):
            if key not in scope["app"].get_blocks()._queue.pending_messages_per_session:
                raise _Nothing  # Gradio finds it out in the midst of its answer
            with listeners.listening(key):
                await self.app(scope, receive, send)
            if name.startswith("call/"):  # Gradio makes a session for each call, and would keep it
                states = scope["app"].state_holder
                states.session_data.pop(key, None)
                states.time_last_used.pop(key, None)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        limit = LARGEST + (1 << 16)  # what is around the file
        too_large = _Refusal(413, f"The file is larger than {LARGEST // 1_000_000} MB. Choose a smaller one.")
        if (
            not headers.get("content-length", "0").isdigit()
            or int(headers.get("content-length", "0")) > limit
        ):
            raise too_large
        received, begun = 0, 0.0

        async def counted() -> Message:
            nonlocal received
            message = await _in_time(receive)
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            if message.get("more_body") and received < (time.monotonic() - begun - IDLE) * SLOWEST:
                raise _TooSlow
            return message

        said = b""

        async def remembered(message: Message) -> None:
            nonlocal said
            said += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                for path in _uploaded(said):
                    storage.belongs(path, who)
            await send(message)

        client = scope.get("client")
        who = address(client[0] if client else "", headers)
        few, count = self._uploading.get(who, (asyncio.Semaphore(AT_ONCE), 0))
        self._uploading[who] = few, count + 1
        try:
            try:
                await asyncio.wait_for(few.acquire(), QUEUED)
            except asyncio.TimeoutError:
                raise _Refusal(
                    429,
                    f"{AT_ONCE} files from your address are being received already. Try again when they are here.",
                ) from None
            begun = time.monotonic()
            try:
                await self.app(scope, counted, remembered)
            finally:
                few.release()
        finally:
            few, count = self._uploading[who]
            self._uploading[who] = few, count - 1
            if count == 1:
                del self._uploading[who]


def _clean(demo: gr.Blocks, name: str, data: bytes) -> bytes:
    """A request's body as the page would send it."""
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise _Refusal(400, "The request is not JSON.") from None
    if not isinstance(body, dict):
        raise _Refusal(400, "The request should be a JSON object.")
    body = _files(body)
    for key in ("session_hash", "event_id"):
        if not isinstance(body.get(key, ""), (str, type(None))) or len(body.get(key) or "") > 100:
            raise _Refusal(400, f"{key} should be a short text.")
    if name == "queue/join":
        return json.dumps(_joined(demo, body)).encode()
    if name.startswith("call/v2/"):
        return json.dumps(_named(demo, name.removeprefix("call/v2/"), body)).encode()
    if name.startswith("call/"):
        return json.dumps(_called(demo, name.removeprefix("call/"), body)).encode()
    if name == "component_server":
        return json.dumps(_served(demo, body)).encode()
    return json.dumps(body).encode()  # cancel, reset


def _joined(demo: gr.Blocks, body: dict[str, Any]) -> dict[str, Any]:
    """An event of the page."""
    index = body.get("fn_index")
    if type(index) is not int or index not in demo.fns:
        raise _Refusal(400, "fn_index should be the number of one of the page's events. Reload the page.")
    if not body.get("session_hash"):
        raise _Refusal(400, "session_hash is missing.")
    function = demo.fns[index]
    triggers = [target for target, _ in function.targets]
    trigger = body.get("trigger_id")
    return {
        "data": _values(body.get("data"), function.inputs),
        "fn_index": index,
        "session_hash": body["session_hash"],
        "event_data": body.get("event_data"),
        "trigger_id": trigger if type(trigger) is int and trigger in triggers else None,
    }


def _called(demo: gr.Blocks, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A call of the API, its values in their order."""
    data = _values(body.get("data"), _function(demo, name).inputs)
    session = {"session_hash": body["session_hash"]} if body.get("session_hash") else {}
    return {"data": data} | session


def _named(demo: gr.Blocks, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A call of the API, its values by their names."""
    function = _function(demo, name)
    names = list(inspect.signature(function.fn).parameters)
    for key in body:
        if key not in names:
            raise _Refusal(400, f"There is no {key[:80]!r}. Send: {', '.join(names)}.")
    defaults = [parameter.default for parameter in inspect.signature(function.fn).parameters.values()]
    given = [body.get(key, None if default is inspect.Parameter.empty else default)
             for key, default in zip(names, defaults, strict=True)]  # fmt: skip
    return dict(zip(names, _values(given, function.inputs), strict=True))


def _served(demo: gr.Blocks, body: dict[str, Any]) -> dict[str, Any]:
    """A call of one of a component's own functions."""
    block = demo.blocks.get(body.get("component_id"))  # type: ignore[arg-type]
    name = body.get("fn_name")
    if not isinstance(name, str) or not getattr(getattr(block, name, None), "_is_server_fn", False):
        raise _Nothing
    keys = ("data", "component_id", "fn_name")
    return {key: body.get(key) for key in keys} | {"session_hash": body.get("session_hash") or ""}


def _function(demo: gr.Blocks, name: str) -> Any:
    for function in demo.fns.values():
        if function.api_name == name and function.api_visibility == "public":
            return function
    raise _Refusal(404, f"The API has no function {name[:80]!r}.")


def middleware() -> list[Middleware]:
    """What goes around the page, for `launch(app_kwargs={"middleware": …})`."""
    return [Middleware(RequestGuard), Middleware(_Compressed)]


class _Compressed:
    """The page and its description compressed; no stream of answers, which it would hold back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.compressing = app, GZipMiddleware(app, minimum_size=1000, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        small = scope["type"] == "http" and COMPRESSED.fullmatch(scope["path"])
        await (self.compressing if small else self.app)(scope, receive, send)


def _values(data: Any, inputs: list[Any]) -> list[Any]:
    """As many values as an event takes; none where one is missing, or where there should be a file and is none."""
    if not isinstance(data, list):
        raise _Refusal(400, "data should be a list of values.")
    data = [*data, *[None] * len(inputs)][: len(inputs)]
    return [
        None if getattr(block, "data_model", None) and not isinstance(value, dict) else value
        for value, block in zip(data, inputs, strict=True)
    ]


def _files(value: Any, depth: int = 0) -> Any:
    """The same with every file as the page sends it: the path of an upload and its name, or nothing."""
    if depth > DEEPEST:
        raise _Refusal(400, "The request is nested too deeply.")
    if isinstance(value, str):
        return values.valid_unicode(value)
    if isinstance(value, list):
        return [_files(one, depth + 1) for one in value]
    if not isinstance(value, Mapping):
        return value
    if not {"path", "url", "meta"} & value.keys():
        return {values.valid_unicode(key): _files(one, depth + 1) for key, one in value.items()}
    path = storage.upload(value.get("path"))
    if path is None:
        return None
    name = value.get("orig_name")
    return {
        "path": str(path),
        "orig_name": values.valid_unicode(name[:255]) if isinstance(name, str) else path.name,
        "meta": {"_type": "gradio.FileData"},
    }


def _stream(name: str, scope: Scope) -> str:
    """The session or event of which a request reads the answers; empty for any other request."""
    if name == "queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
    found = re.fullmatch(r"call/(?:v2/)?\w+/(\w+)", name)
    return found[1] if found else ""


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The request's body."""
    if not Headers(scope=scope).get("content-type", "application/json").startswith("application/json"):
        raise _Refusal(415, "The request should be JSON.")
    data = b""
    while True:
        message = await _in_time(receive)
        if message["type"] == "http.disconnect":
            raise _Refusal(400, "The request broke off.")
        data += message.get("body", b"")
        if len(data) > LARGEST_REQUEST:
            raise _Refusal(413, "The request is too large.")
        if not message.get("more_body"):
            return data


async def _in_time(receive: Receive) -> Message:
    """The next part of a request."""
    try:
        return await asyncio.wait_for(receive(), IDLE)  # type: ignore[arg-type]
    except asyncio.TimeoutError:
        raise _TooSlow from None


def _uploaded(answer: bytes) -> list[Path]:
    """The files that Gradio made of an upload, by its answer."""
    try:
        paths = json.loads(answer)
    except ValueError:
        return []
    found = map(storage.upload, paths) if isinstance(paths, list) else []
    return [file for file in found if file is not None]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what comes after it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _sized(scope: Scope, size: int) -> Scope:
    """The same request with a body of another size."""
    headers = [
        (key, value) for key, value in scope["headers"] if key not in (b"content-length", b"content-type")
    ]
    headers += [(b"content-length", str(size).encode()), (b"content-type", b"application/json")]
    return {**scope, "headers": headers}
