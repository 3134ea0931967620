"""OASIS, 900 photographs rated for valence, arousal and beauty."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np

from ais.data.converters.common import (
    Row,
    as_number,
    as_text,
    check_new,
    find_files,
    find_images,
    find_one,
    letters_of,
    read_table,
    with_columns,
    write_folder,
)
from ais.errors import DataError, listing

_BEAUTY = ("beauty_mean", "beauty_sd", "beauty_n")


def convert_oasis(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    beauty: str | os.PathLike[str] | None = None,
) -> int:
    """OASIS, 900 photographs: Kurdi, Lozano & Banaji (2017), Behavior Research Methods 49.

    Its files are ``OASIS.csv`` with a column without a name (I1 to I900) and then Theme, Category, Source,
    Valence_mean, Valence_SD, Valence_N, Arousal_mean, Arousal_SD and Arousal_N; and for each Theme an image,
    such as ``Images/Acorns 1.jpg``.

    Our columns:
        beauty_mean, beauty_sd, beauty_n, and likewise valence and arousal: on scales of 1 to 7.
        category: animal, object, person or scenery.
        theme: the group to keep together, the Theme in lower case without its number.
        source: where the image is from.

    Args:
        source: the unpacked download.
        out: a folder, new or without a table and images.
        beauty: the ratings by Brielmann & Pelli (2019), Frontiers in Psychology 10:2420
            (github.com/aenneb/OASIS-beauty); None leaves beauty out. Either ``means_per_image.csv``, one row a
            image, with the columns Theme (written Acorns1), beauty_mean, beauty_SD and N; or a table of one
            row a rating, with the column beauty, in which all but 1 to 7 means no rating, and Theme or item,
            the number from OASIS.csv's first column. Of the latter, only the follow-up study's table could be
            seen, in which people rated images repeatedly; the main study's is described as of the same form.

    Returns:
        The number of images.

    Raises:
        DataError: files are missing or not as described, or there is a table or images in `out` already.
    """
    check_new(Path(out))
    files = find_files(source)
    table = find_one(files, "OASIS.csv", source)
    scales = [f"{scale}_{part}" for scale in ("valence", "arousal") for part in ("mean", "sd", "n")]
    theirs = read_table(table, ["theme", "category", "source", *scales])
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
            found = rated.get(letters_of(row["theme"])) or rated.get(_digits(row.get("", "")))
            if found is None:
                problems.append(f"{row['theme']!r} has no rating in {beauty}")
            made |= found or {}
        for scale in scales:
            number = as_number(row[scale])
            made[scale] = as_text(number)
            if not math.isfinite(number):
                problems.append(f"{row['theme']!r} has the {scale} {row[scale]!r}, not a number")
        theme = re.sub(r"_?\d+$", "", name).replace("_", " ")
        rows.append(made | {"category": row["category"].lower(), "theme": theme, "source": row["source"]})
    if problems:
        raise DataError(listing(f"{table} cannot be used as it is", problems))
    return write_folder(out, names, find_images(files, names, source), rows)


def _read_beauty(table: Path) -> dict[str, Row]:
    """Our columns of beauty, of each image by the `letters_of` of its theme or the `_digits` of its item."""
    rows = read_table(table, [])
    summary: dict[str, tuple[float, float, float]] = {}
    key, by = ("theme", letters_of) if "theme" in rows[0] else ("item", _digits)
    if "beauty" in rows[0] and "beauty_mean" not in rows[0]:
        ratings: dict[str, list[float]] = {}
        for row in with_columns(table, rows, [key]):
            if 1 <= (rating := as_number(row["beauty"])) <= 7:
                ratings.setdefault(by(row[key]), []).append(rating)
        for name, given in ratings.items():
            spread = float(np.std(given, ddof=1)) if len(given) > 1 else 0.0
            summary[name] = (float(np.mean(given)), spread, len(given))
    else:
        theirs = ["beauty_mean", "beauty_sd", "n" if "n" in rows[0] else "beauty_n"]
        for row in with_columns(table, rows, [key, *theirs]):
            mean, sd, n = (as_number(row[column]) for column in theirs)
            if math.isfinite(mean + sd + n):
                summary[by(row[key])] = (mean, sd, n)
    return {name: dict(zip(_BEAUTY, map(as_text, values), strict=True)) for name, values in summary.items()}


def _digits(item: str) -> str:
    return re.sub(r"\D", "", item)
