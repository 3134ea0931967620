"""Which column of a table is meant, by its name: what is guessed is said, and what is unclear is asked about."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ais.data.tables import Table, decimal_mark, folded, names_listed, number, quote
from ais.errors import DataError
from ais.images.reading import SUFFIXES

FILE_NAME = "file_name"

GROUP, CATEGORY = (
    "theme",
    "category",
)  # what the columns of groups and of categories are called if not said otherwise

NONE = "-"  # in the place of a column's name: none, not even the usual one

# Other people's names for columns, as `_plain` has them. The second line of the images' says it less surely.
_IMAGES = (
    "filename file filepath filenames image imagename imagefile imagefilename imagepath images img imgname imgpath "
    "picture picturename picturefile pictures pic photo photoname photograph path",
    "name id imageid imgid pictureid item stimulus stimulusname stimulusfile stim",
)

_BESIDE = {
    "sd": "sd std stdev stddev stdv standarddeviation",
    "n": "n count raters nraters numraters nratings numratings votes nvotes numvotes",
}

_GROUPS = "group groups author artist photographer scene series subject prompt session"


@dataclass(frozen=True)
class RatingColumns:
    """The columns of a table of ratings, by their names.

    Attributes:
        target: the ratings.
        sd, n: their standard deviation, at least 0, and the number of raters, a whole number of at least 1; None takes
            ``X_sd`` and ``X_n`` beside a target ``X`` or ``X_mean`` if they are there, or what else is surely meant,
            and says so; "-" is for none.
        group: the groups; None for none.
        category: the categories; None for none.
        split: train(ing), val(id) or validation, or test(ing); None for none.
        image: the images' names; None takes ``file_name``, or else the column that is called much like it.
    """

    target: str
    sd: str | None = None
    n: str | None = None
    group: str | None = None
    category: str | None = None
    split: str | None = None
    image: str | None = None

    def found_in(self, table: Table, notes: list[str]) -> RatingColumns:
        """With what is left to be found: `image`, and `sd` and `n` if there are such columns. Guesses go to `notes`.

        Raises:
            DataError: the table lacks a column.
        """
        image = self.image or image_column(table, notes)
        sd = _column_beside(table, image, self.target, "sd", self.sd, notes)
        n = _column_beside(table, image, self.target, "n", self.n, notes)
        others = [c for c in (sd, n, self.group, self.category, self.split) if c is not None]
        require(table, [image, self.target, *others])
        return replace(self, image=image, sd=sd, n=n)


def image_column(table: Table, notes: list[str]) -> str:
    """The column that names the images: ``file_name``, or what is called much like it."""
    if FILE_NAME in table.columns:
        return FILE_NAME
    by_name = [[column for column in table.columns if _plain(column) in words.split()] for words in _IMAGES]
    guessed = by_name[0] or by_name[1]
    if len(guessed) > 1:
        guessed = [
            column
            for column in guessed
            if any(Path(row.cells[column]).suffix.lower() in SUFFIXES for row in table.rows)
        ]
    if len(guessed) == 1:
        notes.append(
            f"{table.sheet.file} has no column {FILE_NAME}; {quote(guessed[0])} is taken for the pictures' names."
        )
        return guessed[0]
    return FILE_NAME


def _column_beside(
    table: Table, image: str, target: str, what: str, given: str | None, notes: list[str]
) -> str | None:
    """The column of the ratings' standard deviation (`what` is "sd") or number of raters ("n"), if there is one."""
    if given is not None:
        return None if given == NONE else given
    usual = f"{target.removesuffix('_mean')}_{what}"
    if usual in table.columns:
        return usual
    words = _BESIDE[what].split()
    stem = re.sub(r"^mean|mean$", "", _plain(target))
    joined = {
        pair for word in words for base in {stem, _plain(target)} for pair in (base + word, word + base)
    }
    others = [column for column in table.columns if column not in (target, image)]
    found = [column for column in others if _plain(column) in joined - set(words)]
    bare = [column for column in others if _plain(column) in words]
    means = "standard deviation" if what == "sd" else "number of raters"
    if not found and len(bare) == 1:
        if _counts_rows(table, bare[0]):
            return None
        if not _may_belong_to_others(table, image, target):
            found = bare
    if len(found) == 1:
        notes.append(
            f"{quote(found[0])} is taken for the {means} of {quote(target)}: for another column give --{what} "
            f"COLUMN, for none --{what} {NONE}."
        )
        return found[0]
    if found or bare:
        notes.append(
            f"{names_listed(found or bare)} may be the {means} of {quote(target)} or not, and is not used: if it is, "
            f"give --{what} COLUMN."
        )
    return None


def _counts_rows(table: Table, column: str) -> bool:
    """It holds the rows' own numbers."""
    cells = [row.cells[column] for row in table.rows]
    return len(cells) > 1 and any(cells == [str(i + first) for i in range(len(cells))] for first in (0, 1))


def _may_belong_to_others(table: Table, image: str, target: str) -> bool:
    """Another column might be a rating, too, to which a column called just "sd" or "n" may belong."""
    for column in table.columns:
        if (
            column in ("", target, image)
            or _plain(column) in " ".join(_BESIDE.values()).split()
            or _counts_rows(table, column)
        ):
            continue
        cells = [row.cells[column] for row in table.rows]
        decimal = decimal_mark(cells, table.sheet.delimiter)
        if len(set(cells)) > 1 and all(number(cell, decimal) is not None for cell in cells):
            return True
    return False


def like_groups(columns: list[str]) -> list[str]:
    """Those of the columns that may say which images belong together."""
    return [column for column in columns if _plain(column) in _GROUPS.split()]


def require(table: Table, wanted: list[str]) -> None:
    """Refuse a table without these columns, naming those that may be meant."""
    missing = [column for column in dict.fromkeys(wanted) if column not in table.columns]
    if not missing:
        return
    by_plain = {_plain(column): column for column in table.columns if column}
    close = []
    for column in missing:
        if column == FILE_NAME:
            continue
        plain = _plain(column)
        stem = re.sub(r"^mean|mean$", "", plain)
        near = [name for key, name in by_plain.items() if stem and re.sub(r"^mean|mean$", "", key) == stem]
        near = near or [by_plain[key] for key in difflib.get_close_matches(plain, by_plain, 1)]
        close += near[:1]
    hint = f" Did you mean {names_listed(list(dict.fromkeys(close)))}?" if close else ""
    if FILE_NAME in missing and table.columns:
        hint += " Name the column of the pictures' names with --image."
    there = names_listed([column for column in table.columns if column])
    raise DataError(
        f"{table.sheet.file} has no column {names_listed(missing)}. "
        f"Its columns are: {there or 'none, it is empty'}.{hint}"
    )


def _plain(name: str) -> str:
    """What "Mean rating", "mean_rating" and "MeanRating" have in common."""
    return re.sub(r"[\W_]", "", folded(name))
