"""From published data sets, as their authors distribute them, to folders as `ais.datasets` reads them.

Each function takes the unpacked download, finds its files by name wherever they lie in it, links or copies the
pictures into a folder and writes the table there: all of it, or nothing.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import io as matlab

from ais import tables
from ais.columns import FILE_NAME
from ais.datasets import METADATA
from ais.errors import DataError, listing
from ais.io.files import check_outputs, staging

logger = logging.getLogger(__name__)

Files = dict[str, list[Path]]  # by name in lower case
Row = dict[str, str]

IMAGES = "images"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_AIGCIQA2023 = 2400  # pictures
_BEAUTY = ("beauty_mean", "beauty_sd", "beauty_n")


def convert_aigciqa2023(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """AIGCIQA2023, 2,400 generated pictures: Wang et al. (2023), arXiv 2307.00211.

    Its files are ``Image/allimg/0.png`` to ``2399.png``; ``DATA/MOS/mosz1.mat`` (quality), ``mosz2.mat``
    (authenticity) and ``mosz3.mat`` (correspondence with the prompt), each a vector ``MOSz`` on a scale of 0
    to 100; and ``DATA/STD/SD1.mat`` to ``SD3.mat`` with a vector ``SD``. The authors' repository
    (github.com/wangjiarui153/AIGCIQA2023) adds a table ``AIGCIQA2023.csv`` with the prompts and their kinds:
    put it into `source` to have these too.

    Our columns:
        quality_mean, authenticity_mean, correspondence_mean.
        quality_raw_sd and so on, where found: the authors' standard deviations, which are in points of the
            raw ratings' scale, about 1, and not of the means' 0 to 100. So they are not called ``…_sd``.
        prompt: the group to keep together. Picture i shows prompt (i mod 400) div 4, as the authors' table
            has it: 24 pictures each. Without the table, prompts are numbered.
        category, style: the prompt's class and style from the table.
        block: i div 400 + 1. Each of the six blocks holds all prompts, and there are six generators (Glide,
            Lafite, DALL-E, Stable Diffusion, Unidiffuser, ControlNet); which block is whose is not published.

    Returns:
        The number of pictures.

    Raises:
        DataError: files are missing or not as described, or there is a table or pictures in `out` already.
    """
    _check_new(Path(out))
    files = _files(source)
    places = range(_AIGCIQA2023)
    columns: dict[str, Sequence[str]] = {}
    for i, name in enumerate(("quality", "authenticity", "correspondence"), start=1):
        columns[f"{name}_mean"] = _vector(_one(files, f"mosz{i}.mat", source), "MOSz")
        if f"sd{i}.mat" in files:
            columns[f"{name}_raw_sd"] = _vector(_one(files, f"SD{i}.mat", source), "SD")
    columns["prompt"] = [f"prompt {i % 400 // 4}" for i in places]
    if "aigciqa2023.csv" in files:
        table = _one(files, "AIGCIQA2023.csv", source)
        theirs = _read_table(table, ["name", "prompt", "class", "style"])
        row_of = {row["name"]: row for row in theirs}
        absent = [f"{i}.png is not named" for i in places if f"{i}.png" not in row_of]
        if absent:
            raise DataError(listing(f"{table} does not fit the pictures", absent))
        for ours, column in {"prompt": "prompt", "category": "class", "style": "style"}.items():
            columns[ours] = [row_of[f"{i}.png"][column] for i in places]
    columns["block"] = [str(i // 400 + 1) for i in places]
    rows = [{column: values[i] for column, values in columns.items()} for i in places]
    names = [str(i) for i in places]
    return _write(out, names, _pictures(files, names, source), rows)


def convert_oasis(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    beauty: str | os.PathLike[str] | None = None,
) -> int:
    """OASIS, 900 photographs: Kurdi, Lozano & Banaji (2017), Behavior Research Methods 49.

    Its files are ``OASIS.csv`` with a column without a name (I1 to I900) and then Theme, Category, Source,
    Valence_mean, Valence_SD, Valence_N, Arousal_mean, Arousal_SD and Arousal_N; and for each Theme a picture,
    such as ``Images/Acorns 1.jpg``.

    Our columns:
        beauty_mean, beauty_sd, beauty_n, and likewise valence and arousal: on scales of 1 to 7.
        category: animal, object, person or scenery.
        theme: the group to keep together, the Theme in lower case without its number.
        source: where the picture is from.

    Args:
        source: the unpacked download.
        out: a folder, new or without a table and pictures.
        beauty: the ratings by Brielmann & Pelli (2019), Frontiers in Psychology 10:2420
            (github.com/aenneb/OASIS-beauty); None leaves beauty out. Either ``means_per_image.csv``, one row a
            picture, with the columns Theme (written Acorns1), beauty_mean, beauty_SD and N; or a table of one
            row a rating, with the column beauty, in which all but 1 to 7 means no rating, and Theme or item,
            the number from OASIS.csv's first column. Of the latter, only the follow-up study's table could be
            seen, in which people rated pictures repeatedly; the main study's is described as of the same form.

    Returns:
        The number of pictures.

    Raises:
        DataError: files are missing or not as described, or there is a table or pictures in `out` already.
    """
    _check_new(Path(out))
    files = _files(source)
    table = _one(files, "OASIS.csv", source)
    scales = [f"{scale}_{part}" for scale in ("valence", "arousal") for part in ("mean", "sd", "n")]
    theirs = _read_table(table, ["theme", "category", "source", *scales])
    rated = None if beauty is None else _read_beauty(Path(beauty))
    problems: list[str] = []
    names: list[str] = []
    rows: list[Row] = []
    for row in theirs:
        name = re.sub(r"[^a-z0-9]+", "_", row["theme"].lower()).strip("_")
        if name in names:
            problems.append(f"{row['theme']!r} is there twice")
        names.append(name)
        made: Row = {}
        if rated is not None:
            found = rated.get(_letters(row["theme"])) or rated.get(_digits(row.get("", "")))
            if found is None:
                problems.append(f"{row['theme']!r} has no rating in {beauty}")
            made |= found or {}
        for scale in scales:
            number = _number(row[scale])
            made[scale] = _text(number)
            if not math.isfinite(number):
                problems.append(f"{row['theme']!r} has the {scale} {row[scale]!r}, not a number")
        theme = re.sub(r"_?\d+$", "", name).replace("_", " ")
        rows.append(made | {"category": row["category"].lower(), "theme": theme, "source": row["source"]})
    if problems:
        raise DataError(listing(f"{table} cannot be used as it is", problems))
    return _write(out, names, _pictures(files, names, source), rows)


def _read_beauty(table: Path) -> dict[str, Row]:
    """Our columns of beauty, of each picture by the `_letters` of its theme or the `_digits` of its item."""
    rows = _read_table(table, [])
    summary: dict[str, tuple[float, float, float]] = {}
    key, by = ("theme", _letters) if "theme" in rows[0] else ("item", _digits)
    if "beauty" in rows[0] and "beauty_mean" not in rows[0]:
        ratings: dict[str, list[float]] = {}
        for row in _with_columns(table, rows, [key]):
            if 1 <= (rating := _number(row["beauty"])) <= 7:
                ratings.setdefault(by(row[key]), []).append(rating)
        for name, given in ratings.items():
            spread = float(np.std(given, ddof=1)) if len(given) > 1 else 0.0
            summary[name] = (float(np.mean(given)), spread, len(given))
    else:
        theirs = ["beauty_mean", "beauty_sd", "n" if "n" in rows[0] else "beauty_n"]
        for row in _with_columns(table, rows, [key, *theirs]):
            mean, sd, n = (_number(row[column]) for column in theirs)
            if math.isfinite(mean + sd + n):
                summary[by(row[key])] = (mean, sd, n)
    return {name: dict(zip(_BEAUTY, map(_text, values), strict=True)) for name, values in summary.items()}


def _letters(name: str) -> str:
    """What "Angry face 1", "Angryface1" and "angry_face_1" have in common."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _digits(item: str) -> str:
    return re.sub(r"\D", "", item)


def _number(text: str) -> float:
    """A number of a table that `_read_table` read; NaN for all else."""
    value = tables.number(text)
    return math.nan if value is None else value


def _text(number: float) -> str:
    return f"{round(number, 4):.10g}"


def _files(source: str | os.PathLike[str]) -> Files:
    """All files below a folder but hidden ones, which archives made on a Mac leave beside each true one."""
    if not Path(source).is_dir():
        raise DataError(f"There is no folder {source}: give the one that the download was unpacked to.")
    files: Files = {}
    for file in sorted(Path(source).rglob("*")):
        if not file.name.startswith(".") and file.is_file():
            files.setdefault(file.name.lower(), []).append(file)
    return files


def _one(files: Files, name: str, source: str | os.PathLike[str]) -> Path:
    found = files.get(name.lower(), [])
    if not found:
        raise DataError(f"There is no file {name} in {source} or the folders in it: download the set again.")
    if len(found) > 1:
        places = " and ".join(map(str, found))
        raise DataError(f"There are several files {name}, {places}: leave one of them.")
    return found[0]


def _pictures(files: Files, names: Iterable[str], source: str | os.PathLike[str]) -> list[Path]:
    """The pictures of these names, all from the one folder that holds the most of them."""
    wanted = {_letters(name): name for name in names}
    folders: dict[Path, dict[str, Path]] = {}
    for file in (file for same in files.values() for file in same):
        if file.suffix.lower() in _SUFFIXES and (key := _letters(file.stem)) in wanted:
            folders.setdefault(file.parent, {})[key] = file
    folder, found = max(folders.items(), key=lambda item: len(item[1]), default=(Path(source), {}))
    absent = [f"there is no picture of {name}" for key, name in wanted.items() if key not in found]
    if absent:
        raise DataError(listing(f"{folder} lacks pictures, as {' or '.join(_SUFFIXES)}", absent))
    return [found[key] for key in wanted]


def _vector(file: Path, variable: str) -> list[str]:
    """The numbers of AIGCIQA2023's pictures, from a MATLAB file."""
    try:
        content = matlab.loadmat(str(file), variable_names=[variable])
    except NotImplementedError as error:  # HDF5
        raise DataError(
            f"{file} was saved by MATLAB as version 7.3, which is not read here: load it there, and save it "
            f"with save('{file.name}', '{variable}', '-v7')."
        ) from error
    except Exception as error:  # nearly any built-in exception can come out of damaged bytes
        raise DataError(f"{file} cannot be read as a MATLAB file: download it again.") from error
    numbers = np.asarray(content.get(variable, []))
    if numbers.size != _AIGCIQA2023 or numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
        raise DataError(
            f"{file} does not hold {_AIGCIQA2023} numbers under the name {variable}: download it again."
        )
    return [_text(float(number)) for number in numbers.ravel()]


def _read_table(file: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a table; its columns' names in lower case, and its numbers with decimal points.

    Of columns with one name, the first counts.
    """
    table = tables.read_table(file, strict=False)
    for note in table.sheet.notes:
        logger.warning("%s", note)
    if not table.rows:
        raise DataError(f"{file} has no rows: download it again.")
    if wrong := [f"{table.sheet.unit} {row.line}: {row.wrong}" for row in table.rows if row.wrong]:
        raise DataError(listing(f"{file} cannot be used as it is", wrong))
    cells = [cell for row in table.rows for cell in row.cells.values()]
    decimal = tables.decimal_mark(cells, table.sheet.delimiter)

    def pointed(cell: str) -> str:
        return cell.replace(",", ".") if decimal == "," and tables.number(cell, decimal) is not None else cell

    names = {name.lower(): name for name in reversed(table.columns)}
    lower = [name.lower() for name in table.columns]
    rows = [{name: pointed(row.cells[names[name]]) for name in dict.fromkeys(lower)} for row in table.rows]
    return _with_columns(file, rows, columns)


def _with_columns(file: Path, rows: list[Row], columns: Sequence[str]) -> list[Row]:
    absent = [column for column in columns if column not in rows[0]]
    if absent:
        raise DataError(f"{file} has no column {', '.join(absent)}. Its columns are: {', '.join(rows[0])}.")
    return rows


def _check_new(out: Path) -> None:
    """Before anything is read: the folder can be made, and what it is to hold is not there."""
    for old in (out / METADATA, out / IMAGES):
        if os.path.lexists(old):
            raise DataError(f"{old} exists already, and is not overwritten: give a new folder.")
    check_outputs(out, [METADATA])


def _write(out: str | os.PathLike[str], names: list[str], pictures: list[Path], rows: list[Row]) -> int:
    """The folder: pictures `images/NAME.SUFFIX`, hard-linked where the disk allows, and the table."""
    out = Path(out)
    _check_new(out)
    places = [f"{IMAGES}/{name}{file.suffix.lower()}" for name, file in zip(names, pictures, strict=True)]
    try:
        with staging(out) as made:
            (made / IMAGES).mkdir()
            for place, file in zip(places, pictures, strict=True):
                _link(file.resolve(), made / place)  # of a link, what it leads to
            with (made / METADATA).open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, [FILE_NAME, *rows[0]], lineterminator="\n")
                writer.writeheader()
                writer.writerows({FILE_NAME: place} | row for place, row in zip(places, rows, strict=True))
            (made / IMAGES).rename(out / IMAGES)
            try:
                (made / METADATA).rename(out / METADATA)
            except OSError:
                shutil.rmtree(out / IMAGES)
                raise
    except OSError as error:
        raise DataError(f"Nothing was written to {out}: {error.strerror or error}.") from error
    return len(rows)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, place)
