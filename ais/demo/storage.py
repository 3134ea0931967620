"""What the page keeps on disk: uploads and results, removed beyond a number of bytes: the oldest of whoever has most.

All of it lies in Gradio's folder for uploads, which is all that Gradio serves. An upload has a folder whose name is a
salted hash of its content, a result one of `new_folder`: neither can be guessed, so whoever can name one was told.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from ais.demo.visitors import visitor

RESULTS = 32 << 20  # bytes of results older than `FRESH`: browsers and clients fetch them at once
UPLOADS = 128 << 20  # bytes of uploads older than that: they are read again for another head or method
OF_ADDRESS = 100 << 20  # bytes of uploads older than that from one address, beside its newest
MOST = 256 << 20  # bytes of all that no request uses
FRESH = 30.0  # seconds
PAUSE = 1.0  # seconds between two checks
SAVED = 16_000_000  # pixels of a heatmap or an overlay that is saved; of a larger image they are made smaller

_UPLOAD = re.compile(r"[0-9a-f]{64}")

_lock = threading.Lock()
_used: Counter[Path] = Counter()
_owners: dict[Path, str] = {}  # the address that what lies in the folder comes from, where it is known
_last = 0.0


def folder() -> Path:
    """Gradio's folder, as the file system knows it."""
    return Path(get_upload_folder()).resolve()


def new_folder() -> Path:
    """An empty one for results, with an unguessable name."""
    made = folder() / f"ais-{secrets.token_hex(16)}"
    made.mkdir(parents=True)
    belongs(made, visitor().address)
    return made


def belongs(file: Path, address: str) -> None:
    """A file in Gradio's folder, or a folder there, comes from this address."""
    entry = _entry(file, folder())
    if entry is not None:
        with _lock:
            _owners[entry] = address


def upload(path: Any) -> Path | None:
    """The file of an upload by the path that a visitor sent; None for whatever else it may name.

    It must be a plain file in the folder of an upload, links followed: no result, and nothing outside.
    """
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        return None
    try:
        file, root = Path(path).resolve(), folder()
        own = file.parent.parent == root and _UPLOAD.fullmatch(file.parent.name)
        return file if own and Path(path).is_absolute() and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links that lead round in a circle
        return None


@contextlib.contextmanager
def using(*files: Path | None) -> Iterator[None]:
    """While these files are read or written, nothing of their folders is removed."""
    root = folder()
    held = [found for file in files if file is not None and (found := _entry(file, root))]
    with _lock:
        _used.update(held)
    try:
        yield
    finally:
        with _lock:
            _used.subtract(held)


def tidy() -> None:
    """Remove what is too much, in the background; at most once in `PAUSE`."""
    global _last
    with _lock:
        if time.monotonic() - _last < PAUSE:
            return
        _last = time.monotonic()
    threading.Thread(target=_tidy, name="ais-tidy", daemon=True).start()


def _tidy() -> None:
    with _lock:
        used = {entry for entry, count in _used.items() if count > 0}
        for entry in [entry for entry, count in _used.items() if count <= 0]:
            del _used[entry]
        for entry in [entry for entry in _owners if not entry.exists()]:
            del _owners[entry]
        uploads: dict[str, list[Path]] = {}
        for entry, address in _owners.items():  # in the order in which they came
            if address and _UPLOAD.fullmatch(entry.name):
                uploads.setdefault(address, []).append(entry)
    for of_address in uploads.values():
        _remove(of_address[:-1], OF_ADDRESS, used, FRESH)
    remove_oldest(folder(), RESULTS, used, younger=FRESH, names="ais-*")
    remove_oldest(folder(), UPLOADS, used, younger=FRESH, names="?" * 64)
    remove_oldest(folder(), MOST, used)
    if hasattr(_libc, "malloc_trim"):  # the memory of threads that are done goes back to the system
        _libc.malloc_trim(0)


def remove_oldest(root: Path, limit: int, used: set[Path], younger: float = 0.0, names: str = "*") -> None:
    """Remove what lies in a folder until it has no more bytes than `limit`: the oldest of whoever has most there.

    Args:
        used: what stays. younger: what was changed so many seconds ago, or later, stays, too.
        names: which of it is meant, as a pattern.
    """
    with contextlib.suppress(OSError):
        _remove(root.glob(names), limit, used, younger)


def _remove(places: Iterable[Path], limit: int, used: set[Path], younger: float) -> None:
    entries = []
    for entry in places:
        with contextlib.suppress(OSError):
            entries.append((*_age(entry), entry))
    now = time.time()
    sizes: Counter[str] = Counter()
    free: dict[str, list[tuple[float, int, Path]]] = {}  # what may go, the oldest last
    with _lock:
        owners = dict(_owners)
    for changed, size, entry in sorted(entries, reverse=True):
        owner = owners.get(entry, "")
        sizes[owner] += size
        if entry not in used and now - changed >= younger:
            free.setdefault(owner, []).append((changed, size, entry))
    while sizes.total() > limit and free:
        owner = max(free, key=lambda owner: sizes[owner])
        _, size, entry = free[owner].pop()
        if not free[owner]:
            del free[owner]
        sizes[owner] -= size
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()


def _age(entry: Path) -> tuple[float, int]:
    """When it, or anything in it, was last changed; its bytes."""
    files = [entry, *entry.rglob("*")] if entry.is_dir() and not entry.is_symlink() else [entry]
    states = [file.lstat() for file in files]
    bytes_ = sum(state.st_size for state in states if not stat.S_ISDIR(state.st_mode))
    return max(state.st_mtime for state in states), bytes_


def _entry(file: Path, root: Path) -> Path | None:
    """What of the folder a file lies in."""
    file = file.resolve()
    return root / file.relative_to(root).parts[0] if file != root and file.is_relative_to(root) else None


def sparing() -> None:
    """Let many threads share little memory: glibc gives each its own otherwise, and keeps it."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(-8, 2)  # M_ARENA_MAX


try:
    _libc: Any = ctypes.CDLL(None)
except (OSError, TypeError):  # not on this system
    _libc = None
