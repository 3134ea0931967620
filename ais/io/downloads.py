"""Fetching one large file over HTTPS: all of it, or none; in bounded time; and by its checksum, if its name has one."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.request
import uuid
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError

from huggingface_hub.errors import LocalEntryNotFoundError
from tqdm import tqdm

from ais.errors import WeightsError
from ais.io.hub import MIN_THROUGHPUT, TIMEOUT, offline, with_timeout

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # as torch and torchvision name their files

_PIECE = 1 << 17  # bytes

_SCHEME = "https://"


def download(address: str, file: Path, limit: int, progress: bool = False) -> None:
    """Fetch a file to its place; one that is there is written over.

    The connection has to be made within `TIMEOUT` seconds, and from then on the file has to come with
    `MIN_THROUGHPUT` bytes per second on average. Redirections are followed, to HTTPS only.

    Args:
        address: ``https://…``. Its last part may hold the beginning of the file's SHA-256, ``name-0cc3c7bd.pth``.
        limit: the most bytes that it may have.
        progress: show a bar on stderr.

    Raises:
        WeightsError: it cannot be downloaded, or not completely, or cannot be kept: the reason, as a clause.
    """
    if variable := offline():
        raise WeightsError(f"{variable} forbids it")
    if not address.startswith(_SCHEME):
        raise WeightsError(f"the address does not begin with {_SCHEME}")
    try:
        answer = with_timeout(TIMEOUT, lambda: _open(address))
    except LocalEntryNotFoundError:
        raise WeightsError(f"no answer within {TIMEOUT:.0f} seconds") from None
    except HTTPError as error:
        raise WeightsError(f"the server answers with status {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsError(str(getattr(error, "reason", None) or error) or type(error).__name__) from None
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with answer, part.open("xb") as out:
            digest = _copy(answer, out, limit, progress)
        expected = _HASH.search(file.name)
        if expected and not digest.startswith(expected[1]):
            raise WeightsError("what came is another file: its SHA-256 is not the one in its name")
        part.replace(file)
    except OSError as error:
        raise WeightsError(f"it cannot be kept in {file.parent}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


class _HTTPSOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith(_SCHEME):
            raise URLError(f"the server sends on to an address that does not begin with {_SCHEME}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(address, headers={"User-Agent": "ais"})
    return urllib.request.build_opener(_HTTPSOnly).open(request, timeout=TIMEOUT)


def _copy(answer: http.client.HTTPResponse, out: IO[bytes], limit: int, progress: bool) -> str:
    """Write the body; the SHA-256 of it, in hexadecimal digits."""
    announced = answer.length
    if announced is not None and announced > limit:
        raise WeightsError(f"it is too large to be what it should be: over {limit >> 20} MiB")
    digest, size, begin = hashlib.sha256(), 0, time.monotonic()
    bar: tqdm[Any] = tqdm(
        desc="weights", total=announced, unit="B", unit_scale=True, disable=None if progress else True,
        leave=False, file=sys.stderr,
    )  # fmt: skip
    with bar:
        while piece := _read(answer):
            size += len(piece)
            if size > limit:
                raise WeightsError(f"it is too large to be what it should be: over {limit >> 20} MiB")
            if time.monotonic() - begin > TIMEOUT + size / MIN_THROUGHPUT:
                raise WeightsError(f"it came with less than {MIN_THROUGHPUT // 1000} kB per second")
            out.write(piece)
            digest.update(piece)
            bar.update(len(piece))
    if announced is not None and size < announced:
        raise WeightsError("the download is incomplete")
    out.flush()
    os.fsync(out.fileno())
    return digest.hexdigest()


def _read(answer: http.client.HTTPResponse) -> bytes:
    """What has come, without waiting for more."""
    try:
        return answer.read1(_PIECE)
    except TimeoutError:
        raise WeightsError(f"nothing came for {TIMEOUT:.0f} seconds") from None
    except (OSError, HTTPException):
        raise WeightsError("the download is incomplete") from None
