"""Tables as people save them: CSV with any delimiter, tab-separated text, Excel's workbooks; and the numbers in them.

Everything that comes from outside as a table goes through here, so that a cell means the same everywhere.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ais.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")

_MOST_BYTES = 2**29

_MOST_CELLS = 2**25

_SAMPLE = 2**16  # characters by which the delimiter is found

_WORKBOOKS = (".xlsx", ".xlsm")

_NOT_READ = (".xls", ".xlsb", ".ods", ".numbers")

_DELIMITERS = ("\t", ";", ",", " ")  # of two that fit equally well, the first

_BOMS = (  # the longer first: UTF-16's begins UTF-32's
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")

_SEPARATOR = re.compile(r'(?:"sep=(.)"|sep=(.))(?=\r|\n|$)', re.IGNORECASE)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)

_THOUSAND = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)

_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


class Exact(str):
    """A cell that a workbook holds as a number, so that its decimal mark is not in doubt."""

    __slots__ = ()


@dataclass(frozen=True)
class Sheet:
    """The cells of a table.

    Attributes:
        file: where they are from.
        rows: of each row with content, the line (of a workbook: the row) on which it begins and its cells, without
            the spaces around them.
        delimiter: what stands between the cells; "" in a workbook.
        notes: sentences on what had to be guessed.
    """

    file: Path
    rows: list[tuple[int, list[str]]]
    delimiter: str
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What the rows' numbers count."""
        return "line" if self.delimiter else "row"


@dataclass(frozen=True)
class Row:
    """A row of a `Table`.

    Attributes:
        line: on which it begins.
        cells: by their columns' names; "" for those that it ends before.
        wrong: why it cannot be used; "" if it can.
        absent: the columns that it ends before.
    """

    line: int
    cells: dict[str, str]
    wrong: str
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A sheet whose first row names the columns.

    Attributes:
        sheet: the cells that it is made of.
        columns: the names; only the first may be "".
        rows: those after the names. What a row lacks at its end is empty.
    """

    sheet: Sheet
    columns: list[str]
    rows: list[Row]


def number(text: str, decimal: str = ".") -> float | None:
    """A number as people write it: digits, a sign, one decimal mark, an exponent; None for all else.

    So ``1_5``, ``0x10``, ``nan``, ``1 000``, digits of other scripts and what is too large are no numbers.

    Args:
        text: a cell without spaces around it.
        decimal: its decimal mark, by `decimal_mark`.
    """
    if decimal == ",":
        if "." in text:
            return None
        text = text.replace(",", ".", 1)
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def decimal_mark(cells: Iterable[str], delimiter: str) -> str:
    """The decimal mark of a table's numbers, "." or ",".

    A comma where most of the numbers with a mark have one, and cells are not divided by commas. If it might as
    well divide thousands (all are like 1,234, and there are no semicolons, which programs write because the comma
    is taken), it is not believed to be one.
    """
    if delimiter == ",":
        return "."
    commas, points = [], 0
    for cell in cells:
        if "," in cell and _DECIMAL_COMMA.fullmatch(cell):
            commas.append(cell)
        elif "." in cell and _NUMBER.fullmatch(cell):
            points += 1
    if len(commas) <= points:
        return "."
    thousands = delimiter != ";" and all(_THOUSANDS.fullmatch(cell) for cell in commas)
    return "." if thousands else ","


def thousands(cells: Iterable[str], delimiter: str) -> bool:
    """Whether marks in a column's numbers may divide thousands as well as be decimal ones.

    So it is where all numbers with a mark are like 1.204, and beside them stand whole ones of 100 and more: in 998,
    1.050, 1.204. Where commas divide the cells, the point is the decimal mark.
    """
    if delimiter == ",":
        return False
    texts = [cell for cell in cells if _WHOLE.fullmatch(cell) or any(mark in cell for mark in ".,")]
    marked = [cell for cell in texts if not isinstance(cell, Exact) and not _WHOLE.fullmatch(cell)]
    large = any(_WHOLE.fullmatch(cell) and len(cell.lstrip("+-0")) > 2 for cell in texts)
    return large and bool(marked) and all(like_thousands(cell) for cell in marked)


def like_thousands(cell: str) -> bool:
    """A cell such as 1.050, 1050 or 1.05, not counting what a workbook holds as a number."""
    return not isinstance(cell, Exact) and _THOUSAND.fullmatch(cell) is not None


def either(cell: str) -> str:
    """What a cell that is `like_thousands` may mean, in words."""
    return f"{quote(cell)}, which may mean {re.sub('[.,]', '', cell)} or {float(cell.replace(',', '.')):g}"


def folded(text: str) -> str:
    """What two names have in common that only differ in case, or in how accents are stored (NFC and NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def quote(text: str) -> str:
    """The text in quotation marks, cut where it is long."""
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def read_table(file: str | os.PathLike[str], *, strict: bool = True) -> Table:
    """Read a table whose first row names its columns.

    Columns with neither a name nor content, as Excel leaves them, are left out. Content beyond the named columns
    makes its row wrong, and so does an empty cell beyond the first row's last, unless cells are not divided by
    commas and all rows have as many: in ``4,86,`` under two names, the comma may be a decimal one. Only a first
    column may go without a name, as R and pandas write the rows' own names.

    Args:
        strict: refuse two columns of one name, and content in columns without one; else the first of the name
            counts, and such content does not. A row with more cells than the names' is wrong in either case.

    Raises:
        DataError: it cannot be read, or has two columns of one name.
    """
    sheet = read_sheet(file)
    names = list(sheet.rows[0][1]) if sheet.rows else []
    while not sheet.delimiter and names and not names[-1]:
        names.pop()  # a workbook's rows are all as long as the longest: only names make a column
    rows = sheet.rows[1:]
    place: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in place and name and strict:
            raise DataError(
                f"{sheet.file} has two columns of one name, {quote(name)}: give one another name."
            )
        if name or (i == 0 and any(cells[0] for _, cells in rows)):
            place.setdefault(name, i)
    named = {i for i, name in enumerate(names) if name or i == 0 or not strict}
    width = len(names)
    if sheet.delimiter != "," and len({len(cells) for _, cells in rows}) == 1:
        width = max(width, len(rows[0][1]))
    made = []
    for line, cells in rows:
        beyond = next((cell for i, cell in enumerate(cells) if cell and i not in named), "")
        wrong = f"{quote(beyond)} stands in no named column" if beyond else ""
        if not beyond and len(cells) > width:
            wrong = f"it has {len(cells)} cells, and the columns' names are {len(names)}"
        if wrong and sheet.delimiter == ",":
            wrong += ": a cell with a comma in it needs quotation marks around it, and 1,5 is written 1.5"
        values = {name: cells[i] if i < len(cells) else "" for name, i in place.items()}
        absent = tuple(name for name, i in place.items() if i >= len(cells))
        made.append(Row(line, values, wrong, absent))
    return Table(sheet, list(place), made)


def read_sheet(file: str | os.PathLike[str], *, numbers: bool = False, most: int = _MOST_CELLS) -> Sheet:
    """Read the cells of a ``.csv``, ``.tsv``, ``.txt`` or ``.xlsx`` file.

    Text may be in UTF-8, UTF-16 or UTF-32 (the latter two with a byte order mark), else it is taken for
    Windows-1252; its cells are divided by commas, semicolons or tabs.

    Args:
        numbers: most cells are numbers; then they may also be divided by spaces.
        most: cells; a file with more is refused.

    Raises:
        DataError: it is missing, too large or damaged, or no such file.
    """
    file = Path(file)
    suffix = file.suffix.lower()
    if suffix in _NOT_READ:
        raise DataError(f"{file} is not read here: save it as an Excel workbook (.xlsx) or as CSV.")
    if suffix in _WORKBOOKS:
        check_file(file)
        return _read_workbook(file, most)
    notes: list[str] = []
    text = _read_text(file, notes)
    given = _SEPARATOR.match(text)
    if given:  # Excel's own first line; an empty one in its place keeps the count of lines
        delimiter = given[1] or given[2]
        if delimiter not in _DELIMITERS:
            raise DataError(
                f"{file} says in its first line that its cells are divided by {delimiter!r}, which is not read: save "
                "it with commas, semicolons or tabs."
            )
        text = text[given.end() :]
    else:
        delimiter = _delimiter(text, numbers)
    rows = []
    try:
        size = 0
        for line, cells in _parsed(text, delimiter, strict=True):
            size += len(cells)
            if size > most:
                raise DataError(f"{file} has more than {most:,} cells, which are not read.")
            if delimiter == "\t" and any("\t" in cell and re.search(r"[\r\n]", cell) for cell in cells):
                raise DataError(
                    f"{file}, line {line}: a quotation mark opens a cell there that takes in tabs and the lines after "
                    "it. Take the mark out, or close it where the cell ends."
                )
            if any(cells):
                rows.append((line, cells))
    except csv.Error as error:
        raise DataError(
            f"{file} is not a CSV table: {error}. Look for a quotation mark that is not closed."
        ) from error
    return Sheet(file, rows, delimiter, notes)


def check_file(file: Path) -> None:
    """Refuse what is no plain file or too large, before it is opened.

    Raises:
        DataError: it is missing, a folder, a device or pipe, larger than half a gigabyte, or cannot be looked at.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no file {file}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file} is not a plain file.")
    if status.st_size > _MOST_BYTES:
        raise DataError(f"{file} is larger than {_MOST_BYTES >> 20} MB, which is not read.")


def _read_text(file: Path, notes: list[str]) -> str:
    check_file(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    mark, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        try:
            if mark:
                raise error
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise DataError(f"{file} is damaged, or not text: save it as CSV, in UTF-8.") from None
        notes.append(f"{file} is not in UTF-8; it is read as Windows-1252.")
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise DataError(
            f"{file} is not text: line {line} has the byte {ord(found[0])}. Save it as CSV, in UTF-8."
        )
    return text


def _parsed(text: str, delimiter: str, *, strict: bool) -> Iterable[tuple[int, list[str]]]:
    """The cells of each row, and the line on which it begins."""
    # With newline="" lines end where CSV has them end, and not at every character that Unicode calls a line's end.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=strict, skipinitialspace=delimiter != "\t"
    )
    line = 1
    for row in reader:
        cells = [cell.strip() for cell in row]
        while delimiter == " " and cells and not cells[-1]:
            cells.pop()
        yield line, cells
        line = reader.line_num + 1


def _delimiter(text: str, numbers: bool) -> str:
    """The delimiter by which most rows have as many cells as the names' row has, or as most have of numbers."""
    sample = text[:_SAMPLE]
    if len(sample) < len(text) and "\n" in sample:
        sample = sample[: sample.rindex("\n")]
    best, found = (0.0, 0.0), ","
    for delimiter in _DELIMITERS if numbers else _DELIMITERS[:3]:
        rows: list[list[str]] = []
        try:
            for _, cells in _parsed(sample, delimiter, strict=False):
                if any(cells):
                    rows.append(cells)
        except csv.Error:  # a cell too long, which is said when all is read
            pass
        widths = Counter(map(len, rows))
        width = widths.most_common(1)[0][0] if numbers and rows else len(rows[0]) if rows else 0
        if width < 2:
            continue
        share = 0.0
        if numbers:
            cells = [cell for row in rows for cell in row]
            share = sum(bool(_NUMBER.fullmatch(c) or _DECIMAL_COMMA.fullmatch(c)) for c in cells) / len(cells)
        if (fit := (widths[width] / len(rows), share)) > best:
            best, found = fit, delimiter
    return found


def _read_workbook(file: Path, most: int) -> Sheet:
    """The first sheet with content; of formulas, the results that Excel stored."""
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{file}: reading Excel's workbooks takes openpyxl, which is not installed. Install it with "
            "`pip install openpyxl`, or save the table as CSV."
        ) from None
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > _MOST_BYTES:
            raise DataError(f"{file} unfolds to more than {_MOST_BYTES >> 20} MB, which is not read.")
        results, formulas = (
            openpyxl.load_workbook(file, read_only=True, data_only=stored) for stored in (True, False)
        )
        try:
            names: list[str] = []
            rows: list[tuple[int, list[str]]] = []
            for sheet in results.worksheets:
                found = _workbook_rows(file, sheet, formulas[sheet.title], most)
                if found:
                    names.append(sheet.title)
                    rows = rows or found
        finally:
            results.close()
            formulas.close()
    except DataError:
        raise
    except Exception as error:  # nearly any built-in exception can come out of a damaged archive
        raise DataError(
            f"{file} is not an Excel workbook, or it is damaged or has a password: save it again, or as CSV."
        ) from error
    notes = []
    if len(names) > 1:
        notes.append(f"{file} has {len(names)} sheets with content; the first, {quote(names[0])}, is read.")
    return Sheet(file, rows, "", notes)


def _workbook_rows(file: Path, results: Any, formulas: Any, most: int) -> list[tuple[int, list[str]]]:
    rows = []
    size = 0
    for sheet in (results, formulas):
        sheet.reset_dimensions()  # what a file says of its size need not be so
    pairs = zip(results.iter_rows(), formulas.iter_rows(), strict=True)
    for line, (row, written) in enumerate(pairs, start=1):
        size += len(row) + 1
        if size > most:
            raise DataError(f"{file} has more than {most:,} cells, which are not read.")
        cells = [_cell(cell.value) for cell in row]
        for cell, formula in zip(row, written, strict=True):
            if cell.value is None and formula.value is not None:
                raise DataError(
                    f"{file}: the cell {formula.coordinate} holds a formula without its result: open the file in "
                    "Excel or LibreOffice, save it there, and try again."
                )
        if any(cells):
            rows.append((line, cells))
    width = max((len(cells) for _, cells in rows), default=0)  # rows end at their last cell in the file
    if width * len(rows) > most:
        raise DataError(f"{file} has more than {most:,} cells, which are not read.")
    return [(line, cells + [""] * (width - len(cells))) for line, cells in rows]


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return Exact(value)
    return "" if value is None else str(value).strip()


def names_listed(names: Sequence[str], most: int = 20) -> str:
    """Names in quotation marks, the first few of many."""
    shown = ", ".join(quote(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
