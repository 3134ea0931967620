"""Weights from an address: from a server that hangs, trickles, stops, lies; and never where that is forbidden."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ais
from ais.backbones.loading import load_backbone
from ais.backbones.registry import BACKBONES
from ais.backbones.weights import read_weights
from ais.demo.catalog import Catalog
from ais.errors import AISError, WeightsError
from ais.io import downloads
from ais.io.hub import offline
from ais.publish.push import push_head, repository_to_push
from helpers.local_hub import LocalHub

CONTENT = bytes(range(256)) * 2000

DIGEST = hashlib.sha256(CONTENT).hexdigest()

NAME = f"network-{DIGEST[:8]}.pth"

ENOUGH = threading.Event()  # the test is over


class Handler(http.server.BaseHTTPRequestHandler):
    """What it does is the first part of the path."""

    def do_GET(self) -> None:
        getattr(self, "_" + self.path.split("/")[1])()

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # whoever asked has hung up
            super().handle()

    def _begin(self, length: int | None = len(CONTENT)) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _whole(self) -> None:
        self._begin()
        self.wfile.write(CONTENT)

    def _unannounced(self) -> None:
        self._begin(None)
        self.wfile.write(CONTENT)

    def _other(self) -> None:
        self._begin()
        self.wfile.write(CONTENT[::-1])

    def _short(self) -> None:
        self._begin()
        self.wfile.write(CONTENT[:1000])

    def _large(self) -> None:
        self._begin(1 << 40)

    def _endless(self) -> None:
        self._begin(None)
        while not ENOUGH.is_set():
            self.wfile.write(bytes(1 << 16))

    def _silent(self) -> None:
        ENOUGH.wait(20)

    def _stops(self) -> None:
        self._begin()
        self.wfile.write(CONTENT[:1000])
        ENOUGH.wait(20)

    def _trickles(self) -> None:
        self._begin()
        for i in range(len(CONTENT)):
            self.wfile.write(CONTENT[i : i + 1])
            if ENOUGH.wait(0.05):
                return

    def _trickling_headers(self) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Never: " + b"ending" * 100:
            self.wfile.write(bytes([byte]))
            if ENOUGH.wait(0.05):
                return

    def _nonsense(self) -> None:
        self.wfile.write(b"this is not HTTP\r\n\r\n")

    def _missing(self) -> None:
        self.send_error(404)

    def _broken(self) -> None:
        self.send_error(500)

    def _to(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()

    def _moved(self) -> None:  # to another host
        self._to(f"http://localhost:{self.server.server_address[1]}/whole/{NAME}")

    def _loop(self) -> None:
        self._to("/loop/" + NAME)

    def _ftp(self) -> None:
        self._to(f"ftp://localhost/{NAME}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    ENOUGH.clear()
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    ENOUGH.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def get(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Fetch by plain HTTP, and with less patience."""
    monkeypatch.setattr(downloads, "_SCHEME", "http://")
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)

    def fetch(how: str, name: str = NAME, **options: Any) -> Path:
        file = tmp_path / "new" / "cache" / name
        downloads.download(f"{server}/{how}/{name}", file, limit=1 << 20, **options)
        return file

    return fetch


@pytest.mark.parametrize("how", ["whole", "unannounced", "moved"])
@pytest.mark.parametrize("name", [NAME, "resnet50.pth"])
def test_a_file_comes_whole(how: str, name: str, get: Callable[..., Path], capfd: Any) -> None:
    file = get(how, name, progress=True)
    assert file.read_bytes() == CONTENT
    assert [other.name for other in file.parent.iterdir()] == [name]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert not capfd.readouterr().out  # stdout is for results


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("silent", "no answer within|timed out"),
        ("trickling_headers", "no answer within"),
        ("stops", "nothing came for"),
        ("trickles", "less than 50 kB per second"),
        ("short", "the download is incomplete"),
        ("other", "SHA-256 is not the one in its name"),
        ("large", "too large"),
        ("endless", "too large"),
        ("missing", "status 404"),
        ("broken", "status 500"),
        ("loop", "status 302"),
        ("ftp", "does not begin with"),
        ("nonsense", "this is not HTTP"),
    ],
)
def test_what_goes_wrong_is_said_in_time_and_leaves_nothing(
    how: str, reason: str, get: Callable[..., Path], tmp_path: Path
) -> None:
    begin = time.monotonic()
    with pytest.raises(WeightsError, match=reason):
        get(how)
    assert time.monotonic() - begin < 5
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_file_that_was_there_stays_when_the_new_one_fails(get: Callable[..., Path]) -> None:
    file = get("whole")
    with pytest.raises(WeightsError):
        get("short")
    assert file.read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
def test_a_full_disk_is_a_sentence(get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: usual(Path("/dev/full"), "wb"))
    with pytest.raises(WeightsError, match=r"cannot be kept in .*No space left"):
        get("whole")


def test_a_folder_that_cannot_be_made_is_a_sentence(get: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "new").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be kept in"):
        get("whole")


def test_nobody_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{held.getsockname()[1]}/{NAME}"
        with pytest.raises(WeightsError, match=r"could not be fetched: .*refused") as caught:
            read_weights("a network", address, False)
    assert str(caught.value).endswith(f"put it at {tmp_path / 'hub' / 'checkpoints' / NAME}.")


def test_plain_http_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not begin with https://"):
        downloads.download(f"{server}/whole/{NAME}", tmp_path / NAME, 1 << 20)


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """What is tried at the sockets; and a machine without weights."""
    tried: list[object] = []

    def note(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, note)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, note)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tried


@pytest.mark.parametrize("variable", ["AIS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_no_connection_is_even_tried(
    variable: str, hub: LocalHub, no_connections: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    hub.login()
    shipped = Path(ais.heads.shipped.heads_directory()) / ais.list_heads()[0]
    tries: list[Callable[[], object]] = [
        *(lambda name=name: load_backbone(name) for name in BACKBONES if "lite" not in name),
        lambda: load_backbone("timm:resnet18"),
        lambda: ais.load_head("user/head"),
        lambda: ais.load_head("user/head", revision="1" * 40),
        lambda: push_head(shipped, repository_to_push("user/head")),
    ]
    for attempt in tries:
        with pytest.raises(AISError, match=f"{variable} forbids it"):
            attempt()
    catalog = Catalog("user/head,user/title-0123456789abcdef01234567")
    catalog.start()
    end = time.monotonic() + 30
    while any(not (one.head or one.reason) for one in catalog.entries()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert sum(f"{variable} forbids it" in one.reason for one in catalog.entries()) == 2
    assert not no_connections
    assert not hub.requests


def test_offline_what_is_here_is_used(
    no_connections: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIS_OFFLINE", "yes")
    spec = BACKBONES["vgg16"]
    spec.weights_file.parent.mkdir(parents=True)
    torch.save({"by hand": torch.ones(1)}, spec.weights_file)
    assert torch.equal(read_weights("vgg16", spec.source, False)["by hand"], torch.ones(1))
    assert load_backbone("efficientnet_lite0").name == "efficientnet_lite0"  # inside a package
    assert not no_connections


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), (" TRUE ", True), ("on", True), ("0", False), ("no", False), ("", False)],
)
def test_what_counts_as_offline(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_OFFLINE", value)
    assert offline() == ("AIS_OFFLINE" if expected else "")
