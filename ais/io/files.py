"""Writing files: nobody's file is overwritten by mistake, and no reader or later run ever meets half of one.

Everything that AIS writes for people goes through here. What is refused is refused before anything is computed, if
the command asks `check_outputs` first: a folder, a device, a pipe, a link or a write-protected file in the place, and
a file that the same call reads.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from types import TracebackType

from ais.errors import AISError, UnwritableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

AnyPath = str | os.PathLike[str]

_STAGING = ".ais-saving-"  # folders for what is being written, beside its place

_ABANDONED = 24 * 3600  # seconds, where it cannot be seen whether their process still lives

_PATIENCE = 10.0  # seconds, for what another run does in a moment


def check_outputs(directory: AnyPath, names: Iterable[str], inputs: Iterable[AnyPath] = ()) -> None:
    """Whether `write_atomically` could write these files: to be called before the work whose result they hold.

    Nothing is left behind, neither files nor folders.

    Args:
        directory: a folder, there or to be made.
        names: of the files in it, also in subfolders: ``member/heatmap.npy``.
        inputs: files that the same call reads.

    Raises:
        AISError: a place is taken by what is no plain file, or by an input; or something in the way is no folder.
        UnwritableError: the folder, or a file there, cannot be written.
    """
    directory = Path(directory)
    read = {key for file in inputs if (key := _identity(Path(file))) is not None}
    places = [directory / _relative(name) for name in names]
    for place in places:
        _check_place(place, read)
    parents = dict.fromkeys([directory, *(place.parent for place in places)])
    for folder, parent in {_nearest(parent): parent for parent in reversed(parents)}.items():
        _check_folder(folder)
        # Permissions do not tell it all (read-only disks, `/proc`), so something is made there, and taken away.
        with _unwritable(parent), staging(folder):
            pass


def write_atomically(
    directory: AnyPath,
    files: Mapping[str, bytes | Path | Callable[[], bytes]],
    inputs: Iterable[AnyPath] = (),
) -> list[Path]:
    """Write files into a directory: all of them, or none.

    They are written beside their places first and moved there at the end, each move being one step of the file
    system; if one fails, what stood there before is put back. A file that takes another's place has its mode.

    Args:
        files: contents by name, or what makes them, so that large ones are in memory one after the other; or files to
            take as they are, hard-linked where the disk allows, else copied. A name may hold folders:
            ``member/heatmap.npy``.
        inputs: files that must not be overwritten.

    Raises:
        AISError, UnwritableError: as `check_outputs`.
    """
    directory = Path(directory)
    read = {key for file in inputs if (key := _identity(Path(file))) is not None}
    places = {name: directory / _relative(name) for name in files}
    for place in places.values():
        _check_place(place, read)
        _check_folder(_nearest(place.parent))
    with _unwritable(directory), staging(directory) as scratch:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        old.mkdir()
        for number, (name, data) in enumerate(files.items()):
            if isinstance(data, Path):
                _link(data.resolve(), new / str(number))  # of a link, what it leads to
                continue
            (new / str(number)).write_bytes(data() if callable(data) else data)
            _keep_mode(new / str(number), places[name])
        lock = _lock(directory, _PATIENCE)  # of two runs at once, one's files are not among the other's
        try:
            _move_all(new, old, list(places.values()))
        finally:
            if lock is not None:
                os.close(lock)
    return list(places.values())


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """A folder inside `directory` for what is not finished; both are made, and it is removed at the end.

    What a killed run left there is removed, too.
    """
    made = _make_folder(directory)
    try:
        _clear_abandoned(directory)
        scratch = Path(tempfile.mkdtemp(dir=directory, prefix=_STAGING))
    except BaseException:
        _remove_empty(made)
        raise
    lock = _lock(scratch, _PATIENCE)
    try:
        (scratch / "in use").touch()  # from now on whoever can lock it knows that its process is gone
        yield scratch
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(made)  # with what was written in it, a folder stays


class GrowingFile:
    """A text file that grows piece by piece, each of which is on the disk once it is written.

    A new file grows in its place. Where there is one already, the new one grows beside it, as ``NAME.partial`` (or
    ``NAME.partial-2``, if there is that, too), and takes its place when it is complete, so a run that is stopped costs
    neither. A piece that does not fit on the disk is taken back whole. If it is left empty and is not complete, it is
    removed. Of two at once, the second is refused.

    Args:
        inputs: files that must not be overwritten.

    Attributes:
        place: where the text is now.

    Raises:
        AISError: as `check_outputs`.
        UnwritableError: as there; or another run is writing the file.
    """

    def __init__(self, file: AnyPath, inputs: Iterable[AnyPath] = ()) -> None:
        self.target = Path(file)
        check_outputs(self.target.parent, [self.target.name], inputs)
        with contextlib.ExitStack() as opened, _unwritable(self.target):
            self._made = _make_folder(self.target.parent)
            opened.callback(_remove_empty, self._made)
            stream, new = _hold(self.target)
            self._held = opened.enter_context(stream)
            self.place, self._stream = (self.target, stream) if new else _open_beside(self.target)
            opened.pop_all()
        if fcntl is None and not new:
            self._held.close()  # a file that is open cannot be replaced there
        _keep_mode(self.place, self.target)
        self._empty, self._complete = True, False

    def write(self, text: str) -> None:
        """Add a piece.

        Raises:
            UnwritableError: it does not fit; all pieces before are there.
        """
        with _unwritable(self.place, "Nothing was" if self._empty else "No more could be"):
            end = self._stream.tell()
            data = memoryview(text.encode("utf-8", "surrogateescape"))
            try:
                while data:
                    data = data[self._stream.write(data) :]
                self._empty = False
            except BaseException:  # also a signal between two parts of a piece
                self._stream.truncate(end)
                self._stream.seek(end)
                raise

    def complete(self) -> None:
        """The text is whole: it takes its place.

        Raises:
            UnwritableError: it cannot.
        """
        with _unwritable(self.target):
            self._stream.close()
            if self.place != self.target:
                self.place.replace(self.target)
                self.place = self.target
            self._complete = True

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fcntl is None or self.place != self.target:
            self._stream.close()
        try:
            if self._empty and not self._complete:
                self.place.unlink(missing_ok=True)
                _remove_empty(self._made)
        finally:
            self._held.close()  # when nothing is changed any more


# What may be written where ------------------------------------------------------------------------------------


def _relative(name: str) -> PurePath:
    path = PurePath(name)
    if path.is_absolute() or path.drive or not path.parts or os.pardir in path.parts or "\0" in name:
        raise AISError(f"{name!r} is not the name of a file in a folder.")
    return path


def _identity(file: Path) -> tuple[int, int] | None:
    """By what a file is known under all its names; None if it is not there."""
    try:
        state = file.stat()
    except (OSError, ValueError):
        return None
    return (state.st_dev, state.st_ino)


def _check_place(place: Path, read: set[tuple[int, int]]) -> None:
    """A file's place has to be free, or taken by a plain file that this call does not read."""
    with _unwritable(place):
        try:
            kind = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return  # the second is said by its folder
        except ValueError as error:
            raise AISError(f"{str(place)!r} is not a name that a file can have.") from error
        if stat.S_ISDIR(kind):
            raise AISError(f"Nothing was written to {place}: it is a folder, and a file is needed.")
        if _identity(place) in read:
            raise AISError(f"{place} is read by this call, so it is not written over: choose another place.")
        if stat.S_ISLNK(kind):
            raise AISError(
                f"{place} is a link, which is not written over: name the file that it leads to, or another."
            )
        if not stat.S_ISREG(kind):
            raise AISError(f"{place} is a device or a pipe, not a file: name a file.")
        if not os.access(place, os.W_OK):
            raise UnwritableError(f"Nothing was written to {place}: it is write-protected.")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that there is."""
    for above in (folder, *folder.parents):
        if os.path.lexists(above):
            return above
    return folder


def _check_folder(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link that leads nowhere" if folder.is_symlink() and not folder.exists() else "a file"
        raise AISError(f"Nothing was written to {folder}: it is {what}, and a folder is needed.")


@contextlib.contextmanager
def _unwritable(place: Path, what: str = "Nothing was") -> Iterator[None]:
    """An error of the system as a sentence that names the place."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"{what} written to {place}: {error.strerror or error}.") from error


# How it is written --------------------------------------------------------------------------------------------


def _keep_mode(file: Path, place: Path) -> None:
    """Give a file the mode, and where possible the owner, of the one whose place it will take."""
    with contextlib.suppress(OSError):
        state = place.stat()
        file.chmod(stat.S_IMODE(state.st_mode))
        if hasattr(os, "chown") and (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(file, state.st_uid, state.st_gid)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, place)


def _move_all(new: Path, old: Path, places: list[Path]) -> None:
    """Move the files, numbered, to their places. What they replace is kept as a second name until all are there, so
    that no place is ever empty, whenever the process is killed."""
    made: list[Path] = []
    moved: list[int] = []
    try:
        for number, place in enumerate(places):
            made += _make_folder(place.parent)
            if place.exists():
                try:
                    os.link(place, old / str(number))
                except OSError:  # a disk without links
                    shutil.copy2(place, old / str(number))
            moved.append(number)
            (new / str(number)).replace(place)
    except BaseException:
        for number in moved:
            if (old / str(number)).exists():
                os.replace(old / str(number), places[number])  # noqa: PTH105  not what may be failing just now
            elif not (new / str(number)).exists():
                places[number].unlink(missing_ok=True)
        _remove_empty(made)
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing; these are returned, the deepest first."""
    missing = []
    for above in (folder, *folder.parents):
        if os.path.lexists(above):
            break
        missing.append(above)
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            made.insert(0, each)
    except BaseException:
        _remove_empty(made)
        raise
    return made


def _remove_empty(folders: Iterable[Path]) -> None:
    """Of folders just made, take away those with nothing in them, the deepest first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _lock(folder: Path, patience: float = 0.0) -> int | None:
    """Lock a folder for as long as this process lives; None where that is not possible, or another has it.

    Args:
        patience: seconds to wait for another.
    """
    if fcntl is None:
        return None
    end = time.monotonic() + patience
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.01)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    except BaseException:  # a signal while it waits
        if descriptor is not None:
            os.close(descriptor)
        raise


def _hold(file: Path) -> tuple[io.FileIO, bool]:
    """Open a file for writing, made if it is not there, as it is if it is, so that no other run holds it as long as it
    is open; and whether it was made.

    Raises:
        UnwritableError: another run holds it.
    """
    while True:
        try:
            stream, new = io.FileIO(file, "x"), True
        except FileExistsError:
            stream, new = io.FileIO(os.open(file, os.O_WRONLY), "w"), False
        if fcntl is None:
            return stream, new
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise UnwritableError(
                f"Another run is writing {file}: wait for its end, or name another."
            ) from error
        except OSError:  # a disk without locks
            return stream, new
        state = os.fstat(stream.fileno())
        if _identity(file) == (state.st_dev, state.st_ino):
            return stream, new
        stream.close()  # the one before has replaced or removed it just now


def _open_beside(file: Path) -> tuple[Path, io.FileIO]:
    """A new file beside another, whose name says that it is not complete."""
    number = 1
    while True:
        place = file.with_name(f"{file.name}.partial" + (f"-{number}" if number > 1 else ""))
        with contextlib.suppress(FileExistsError):
            return place, io.FileIO(place, "x")
        number += 1


def _clear_abandoned(directory: Path) -> None:
    """Remove the staging folders of processes that were killed."""
    for scratch in directory.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            old = time.time() - scratch.lstat().st_mtime > _ABANDONED
            lock = _lock(scratch)
            try:
                if old or (lock is not None and (scratch / "in use").exists()):
                    shutil.rmtree(scratch, ignore_errors=True)
            finally:
                if lock is not None:
                    os.close(lock)
