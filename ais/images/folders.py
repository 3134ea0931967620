"""The pictures of a folder, by the names of its files: one way for every command.

What is left out is said, unless nobody would take it for a picture.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

from ais.errors import DataError
from ais.images.reading import SUFFIXES

# What systems leave in folders, beside all that begins with a dot; in lower case.
_NOT_OURS = frozenset(
    (
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "#recycle",
        "system volume information",
        "thumbs.db",
        "desktop.ini",
    )
)

# Endings that are not worth a word.
_NO_IMAGES = frozenset(
    (".csv", ".tsv", ".txt", ".md", ".rst", ".html", ".htm", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".toml",
     ".ini", ".cfg", ".log", ".bib", ".tex", ".pdf", ".doc", ".docx", ".odt", ".xls", ".xlsx", ".ods", ".ppt", ".pptx",
     ".py", ".ipynb", ".r", ".m", ".js", ".css", ".sh", ".npy", ".npz", ".mat", ".pkl", ".pt", ".pth", ".safetensors",
     ".h5", ".db", ".sqlite", ".zip", ".gz", ".tar", ".7z", ".rar", ".xmp", ".aae", ".thm", ".lnk", ".url", ".partial")
)  # fmt: skip

_EXTRA = frozenset({".heic", ".heif"})  # read with a package more

_NAMED = 3  # of each kind that is left out


def find_images(folder: str | os.PathLike[str], *, subfolders: bool = True) -> tuple[list[Path], list[str]]:
    """The files of a folder and its subfolders that end like pictures, in the order of their paths.

    Links to folders are followed, each folder once, whatever leads to it. Hidden files and folders, and what macOS,
    Windows and network disks leave beside people's files, are no pictures, nor are the overlays of `ais explain`.

    Args:
        subfolders: take the pictures in them, too; else each is left out.

    Returns:
        The files, and a sentence for each kind of thing that was left out; none for what nobody would take for a
        picture, such as tables and text.

    Raises:
        DataError: there is no such folder, or it cannot be looked into.
    """
    folder = Path(folder)
    try:
        state = folder.stat()
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"The folder {folder} cannot be looked into: {why}.") from error
    found: list[Path] = []
    unread: list[Path] = []  # subfolders
    inner: list[Path] = []  # subfolders that are not asked for
    nowhere: list[Path] = []  # links
    special: list[Path] = []
    drawn: list[Path] = []  # by AIS
    endings: Counter[str] = Counter()
    known = {(state.st_dev, state.st_ino)}
    todo: deque[Path] = deque([folder])
    links: deque[Path] = deque()  # after all folders, so that a folder is known by its own path first
    while todo or links:
        here = todo.popleft() if todo else links.popleft()
        try:
            if here is not folder:
                state = here.stat()
                if (state.st_dev, state.st_ino) in known:
                    continue
                known.add((state.st_dev, state.st_ino))
            with os.scandir(here) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            unread.append(here)
            continue
        names = {entry.name for entry in inside}
        for entry in inside:
            path = here / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _NOT_OURS:
                continue
            try:
                if entry.is_dir() and not subfolders:
                    inner.append(path)
                elif entry.is_dir():
                    (links if entry.is_symlink() else todo).append(path)
                elif entry.is_symlink() and not path.exists():
                    nowhere.append(path)
                elif not _like_an_image(entry.name):
                    endings[path.suffix.lower()] += path.suffix.lower() not in _NO_IMAGES
                elif not entry.is_file():
                    special.append(path)
                elif entry.name == "overlay.png" and "explanation.json" in names:
                    drawn.append(path)
                else:
                    found.append(path)
            except OSError:
                unread.append(path)
    left_out = [
        *_of_endings(+endings),
        *_sentence(inner, folder, "folder", "is not looked into", "are not looked into"),
        *_sentence(unread, folder, "folder", "cannot be looked into"),
        *_sentence(nowhere, folder, "link", "leads nowhere", "lead nowhere"),
        *_sentence(special, folder, "pipe or device", "is no picture", "are no pictures"),
        *_sentence(drawn, folder, "picture", "is a heatmap of AIS", "are heatmaps of AIS"),
    ]
    return sorted(found), left_out


def _like_an_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  a name may be anything


def _of_endings(endings: Counter[str]) -> list[str]:
    """One sentence for all files whose endings AIS does not read."""
    if not endings:
        return []
    count = endings.total()
    kinds = [f"{many} {printable(ending) or 'without an ending'}" for ending, many in endings.most_common()]
    noun, verb = ("file", "is") if count == 1 else ("files", "are")
    hint = " (.heic is read after `pip install pillow-heif`)" if _EXTRA & endings.keys() else ""
    return [f"{count} {noun} of other kinds {verb} left out: {', '.join(kinds)}{hint}."]


def _sentence(paths: list[Path], folder: Path, noun: str, one: str, many: str = "") -> list[str]:
    if not paths:
        return []
    names = ", ".join(printable(str(path.relative_to(folder))) for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    what = f"1 {noun} {one}" if len(paths) == 1 else f"{len(paths)} {noun}s {many or one}"
    return [f"{what}: {names}{more}."]


def printable(text: str) -> str:
    """A file's name without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def left_out_line(folder: Path, sentences: Iterable[str]) -> str:
    """All that was left out of a folder, in one line."""
    return f"{printable(str(folder))}: {' '.join(sentences)}"
