"""Who asks: the visitor behind the request that is being answered, and whether anybody still waits for the answer."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gradio.context import LocalContext

from ais.errors import AISError

TRUST_VARIABLE = "AIS_TRUST_PROXY"
GRACE = 8.0  # seconds without a listener after which a visitor is gone: a stream is opened after its question


class Listeners:
    """The streams of answers that are open now, by the session or the event that they are of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self.watching = False  # whether anything tells of streams: not where a function is called from Python

    @contextmanager
    def listening(self, key: str) -> Iterator[None]:
        """While a stream is open."""
        with self._lock:
            self._open[key] = self._open.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]

    def any_open(self, *keys: str) -> bool:
        """Whether a stream of one of them is open."""
        with self._lock:
            return any(key in self._open for key in keys)


listeners = Listeners()


class StoppedError(AISError):
    """The visitor has stopped it."""


class Stops:
    """When a visitor last stopped what is computed, by the session; of the latest `most` alone."""

    def __init__(self, most: int = 1000) -> None:
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self.most = most

    def ask(self, session: str) -> None:
        """Stop what the session has begun until now."""
        with self._lock:
            self._asked[session] = time.monotonic()
            self._asked.move_to_end(session)
            while len(self._asked) > self.most:
                self._asked.popitem(last=False)

    def check(self, session: str, begun: float) -> None:
        """That what began at a time of `time.monotonic` is still wanted.

        Raises:
            StoppedError: it is not.
        """
        with self._lock:
            asked = self._asked.get(session)
        if session and asked is not None and asked >= begun:
            raise StoppedError("This was stopped.")


stops = Stops()


@dataclass(eq=False)
class Visitor:
    """Whoever asks.

    Attributes:
        address: of the machine; of IPv6 the network of a household.
        session, event: Gradio's words for the visit and the request; empty outside of one.
    """

    address: str = ""
    session: str = ""
    event: str = ""
    _heard: float = field(default_factory=time.monotonic)

    def gone(self) -> bool:
        """Whether nobody has listened for some seconds."""
        now = time.monotonic()
        if not self.event or not listeners.watching or listeners.any_open(self.session, self.event):
            self._heard = now
        return now - self._heard > GRACE


def visitor() -> Visitor:
    """Whose request this thread answers; nobody's where a function is called from Python."""
    request = LocalContext.request.get(None)
    if request is None:
        return Visitor()
    client = getattr(request, "client", None)
    return Visitor(
        address(client.host if client else "", request.headers),
        str(getattr(request, "session_hash", "") or ""),
        LocalContext.event_id.get(None) or "",
    )


def address(host: str, headers: Mapping[str, Any]) -> str:
    """The visitor's address; a proxy on this network is believed when it names another, where there is one.

    There is one on a Space, and where the owner says so; elsewhere anybody may write what it would say.
    """
    proxy = os.environ.get("SPACE_ID") or os.environ.get(TRUST_VARIABLE) == "1"
    try:
        found = ipaddress.ip_address(host)
        if proxy and found.is_private and (said := str(headers.get("x-forwarded-for") or "")):
            found = ipaddress.ip_address(said.rpartition(",")[2].strip())
    except ValueError:
        return host
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
