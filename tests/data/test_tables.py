"""Tables as people save them: every dialect holds the same numbers, and what is unclear is a sentence."""

from __future__ import annotations

import csv
import io
import logging
import math
import random
import sys
import unicodedata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.data.columns import RatingColumns
from ais.data.ratings import columns, image_files, read_ratings
from ais.data.rdms import read_human_rdms
from ais.data.tables import decimal_mark, number, read_sheet, read_table
from ais.errors import AISError, DataError
from ais.workflows.align import read_stimulus_set
from helpers.pictures import encoded, photo

JPEG = encoded(photo(16, 12), "JPEG")

NAMES = ("Köln.jpg", "a, b.jpg", "c;d.jpg", "e.jpg")

RATINGS = (1.5, 2.25, -3.0, 4e-3)

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252")


def folder(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(JPEG)
    return place


def rated(
    place: Path, table: str | bytes, name: str = "metadata.csv", pictures: str = "a.jpg b.jpg c.jpg"
) -> Path:
    folder(place, *pictures.split())
    (place / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    return place


def workbook(file: Path, rows: list[list[Any]], **others: list[list[Any]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for title, more in others.items():
        sheet = book.create_sheet(title)
        for row in more:
            sheet.append(row)
    book.save(file)
    return file


def test_every_dialect_holds_the_same_numbers(tmp_path: Path) -> None:
    folder(tmp_path, *NAMES)
    for mark, decimal, end, encoding, padding, sep in product(
        ",;\t", ".,", ("\n", "\r\n", "\r"), ENCODINGS, (False, True), (False, True)
    ):
        if decimal == "," and mark == ",":
            continue
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=mark, lineterminator=end)
        extra = ["", ""] * padding
        if sep:
            text.write(f"sep={mark}{end}")
        writer.writerow(["file_name", "mos", *extra])
        for name, rating in zip(NAMES, RATINGS, strict=True):
            writer.writerow([name, repr(rating).replace(".", decimal), *extra])
        if padding:
            text.write(mark * 3 + end + end)
        (tmp_path / "metadata.csv").write_bytes(text.getvalue().encode(encoding))
        data = read_ratings(tmp_path, "mos")
        assert tuple(data.ratings) == RATINGS
        assert [file.name for file in data.files] == list(NAMES)


def test_workbooks(tmp_path: Path) -> None:
    folder(tmp_path, *NAMES)
    rows: list[list[Any]] = [
        ["file_name", "mos", None],
        *([n, r] for n, r in zip(NAMES, RATINGS, strict=True)),
    ]
    workbook(tmp_path / "ratings.xlsx", [*rows, [None, "  "]], Notes=[["of 2019"]])
    data = read_ratings(tmp_path, "mos", table="ratings.xlsx")
    assert tuple(data.ratings) == RATINGS
    assert (
        read_sheet(tmp_path / "ratings.xlsx")
        .notes[0]
        .endswith("2 sheets with content; the first, 'Sheet', is read.")
    )
    for cell, says in [
        ("=1+1", "cell B2 holds a formula without its result"),
        ("1.5.2", "row 2: mos is '1.5.2'"),
    ]:
        workbook(tmp_path / "ratings.xlsx", [["file_name", "mos"], ["e.jpg", cell]])
        with pytest.raises(DataError, match=says):
            read_ratings(tmp_path, "mos", table="ratings.xlsx")
    (tmp_path / "ratings.xlsx").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(DataError, match="not an Excel workbook, or it is damaged"):
        read_table(tmp_path / "ratings.xlsx")
    (tmp_path / "ratings.xls").write_bytes(b"old")
    with pytest.raises(DataError, match=r"save it as an Excel workbook \(\.xlsx\) or as CSV"):
        read_table(tmp_path / "ratings.xls")


def test_workbooks_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(tmp_path / "ratings.xlsx", [["file_name", "mos"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match="pip install openpyxl"):
        read_table(tmp_path / "ratings.xlsx")


@pytest.mark.parametrize(
    "text",
    ["1_5", "0x10", "nan", "inf", "-Infinity", "1 5", "1,5", "1,234.5", "１５", "٣", "1e999", "", "+", ".", "1e", "1.5.2",  # noqa: E501
     "−1", "1½", "1f", "1.5 "],
)  # fmt: skip
def test_no_numbers(text: str) -> None:
    assert number(text) is None


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers(value: float) -> None:
    assert number(repr(value)) == value
    assert number(repr(value).replace(".", ","), ",") == value
    assert number(f"+{abs(value)!r}") == abs(value)


@pytest.mark.parametrize(
    ("cells", "delimiter", "mark"),
    [
        (["1,5", "2"], ";", ","),
        (["1,5", "2"], "\t", ","),
        (["1,5", "2"], ",", "."),
        (["1,234", "2,345"], ";", ","),  # Excel writes semicolons where the comma is decimal
        (["1,234", "2,345"], "\t", "."),  # thousands, perhaps
        (["0,234", "2,345"], "\t", ","),
        (["1,5", "2.5", "3.5"], ";", "."),
    ],
)
def test_the_decimal_mark(cells: list[str], delimiter: str, mark: str) -> None:
    assert decimal_mark(cells, delimiter) == mark


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "file_name,mos\na.jpg,1,5\n",
            r"line 2: '5' stands in no named column: .*quotation marks .*1,5 is written 1\.5",
        ),
        ("file_name,mos,,\na.jpg,1,5,\n", "line 2: '5' stands in no named column"),
        ("file_name,mos\n" + 'a.jpg,"1,5"\n', r"line 2: mos is '1,5', not a number with a decimal point"),
        (
            "file_name;mos\na.jpg;1,5\nb.jpg;2,5\nc.jpg;3.5\n",
            "line 4: mos is '3.5', not a number with a decimal comma",
        ),
        ("file_name\tmos\na.jpg\t1,234\n", "line 2: mos is '1,234', not a number"),
        ('file_name,mos,note\na.jpg,1,"one\ntwo\nthree"\nb.jpg,x,\n', "line 5: mos is 'x', not"),
        ("file_name,mos\n\n,\na.jpg,1_5\n", "line 4: mos is '1_5'"),
        ("file_name,mos,mos_n\na.jpg,1,1.234\n", "mos_n is '1.234', not a whole number"),
        ("sep=|\nfile_name|mos\na.jpg|1\n", "divided by '|', which is not read"),
        ("file_name,mos\na.jpg," + "1" * 200_000, "field larger than"),
        (
            "file_name,mos,comment\nb.jpg,5,\na.jpg,4,86,\n",
            r"line 3: it has 4 cells, and the columns' names are 3: .* 1\.5",
        ),
        ("file_name,mos,comment\na.jpg,4,86,\nb.jpg,3,12,\n", r"line 2: it has 4 cells"),
        (
            "file_name;mos;comment\na.jpg;4;1;\nb.jpg;3;1\n",
            "line 2: it has 4 cells, and the columns' names are 3",
        ),
        ('file_name\tmos\tsaid\na.jpg\t4\t"nice\nb.jpg\t2\tgood"\nc.jpg\t5\tx\n', "line 2: a quotation mark"),
    ],
)
def test_what_is_no_number_or_no_row_is_said_with_its_line(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(DataError, match=says.replace("'|'", r"'\|'")):
        read_ratings(rated(tmp_path, table), "mos")


@pytest.mark.parametrize("at", ["first", "last", "all"])
@pytest.mark.parametrize("surplus", [["x"], ["", "x"], ["0"]])
@pytest.mark.parametrize("header", [["file_name", "mos"], ["file_name", "mos", ""]])
@pytest.mark.parametrize("form", ["csv", "quoted csv", "semicolons csv", "tsv", "txt", "xlsx"])
def test_what_stands_beyond_the_named_columns_is_never_lost(
    tmp_path: Path, form: str, header: list[str], surplus: list[str], at: str
) -> None:
    rows: list[list[Any]] = [[f"{name}.jpg", "4"] for name in "abc"]
    for row in {"first": rows[:1], "last": rows[-1:], "all": rows}[at]:
        row += [""] * (len(header) - 2) * (surplus[0] != "") + surplus
    suffix = form.split()[-1]
    file = folder(tmp_path, "a.jpg", "b.jpg", "c.jpg") / f"metadata.{suffix}"
    if form == "xlsx":
        workbook(file, [header, *rows])
    else:
        stream = io.StringIO(newline="")
        mark = {"semicolons csv": ";", "tsv": "\t", "txt": "\t"}.get(form, ",")
        quoting = csv.QUOTE_ALL if form == "quoted csv" else csv.QUOTE_MINIMAL
        csv.writer(stream, delimiter=mark, quoting=quoting).writerows([header, *rows])
        file.write_text(stream.getvalue())
    line = f"{'row' if form == 'xlsx' else 'line'} {4 if at == 'last' else 2}"
    says = rf"{line}: '{surplus[-1]}' stands in no named column"
    with pytest.raises(DataError, match=says):
        read_ratings(tmp_path, "mos", table=file.name)
    with pytest.raises(DataError, match=says):
        image_files(tmp_path, table=file.name)
    if (
        len(header) == 2
    ):  # a data set's table may have a column without a name, but no row more cells than columns
        wrong = [row.wrong for row in read_table(file, strict=False).rows]
        assert [says.partition(": ")[2] in one for one in wrong] == [
            at in (place, "all") for place in ("first", "middle", "last")
        ]


@pytest.mark.parametrize(
    ("ratings", "votes", "says"),
    [
        (["998", "1.050", "1.204"], "1 2 3", "line 3: mos is '1.050', which may mean 1050 or 1.05: write"),
        (["1,204", "998", "1,050"], "1 2 3", "line 2: mos is '1,204', which may mean 1204 or 1.204: write"),
        (
            ["4.5", "3", "2.25"],
            "998 2.000 1.000",
            "line 3: mos_n is '2.000', which may mean 2000 or 2: write",
        ),
        (["4.125", "3.875", "99"], "120 130 140", ""),
        (["87.125", "100", "45.5"], "1 2 3", ""),
    ],
)
def test_marks_that_may_divide_thousands(tmp_path: Path, ratings: list[str], votes: str, says: str) -> None:
    rows: list[list[Any]] = [["file_name", "mos", "mos_n"]]
    rows += zip(("a.jpg", "b.jpg", "c.jpg"), ratings, votes.split(), strict=True)
    rated(tmp_path, text(rows, ";"))
    workbook(tmp_path / "as text.xlsx", rows)
    for table in ("metadata.csv", "as text.xlsx"):
        if says:
            with pytest.raises(
                DataError, match=says.replace("line", "line" if table == "metadata.csv" else "row")
            ):
                read_ratings(tmp_path, "mos", table=table)
        else:
            assert read_ratings(tmp_path, "mos", table=table).ratings.tolist() == [*map(float, ratings)]
    workbook(
        tmp_path / "numbers.xlsx", [["file_name", "mos"], ["a.jpg", 998], ["b.jpg", 1.125], ["c.jpg", 2.0]]
    )
    assert read_ratings(tmp_path, "mos", table="numbers.xlsx").ratings.tolist() == [998, 1.125, 2]


def test_ratings_of_single_people_are_recognised(tmp_path: Path) -> None:
    rows = [[name, rating] for rating in "123" for name in ("a.jpg", "b.jpg", "c.jpg")]
    rated(tmp_path, text([["file_name", "mos"], *rows], ","))
    with pytest.raises(
        DataError, match=r"6 of 9 rows name a picture .* average them for each picture"
    ) as refusal:
        read_ratings(tmp_path, "mos")
    assert "1 problem:" in str(refusal.value)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_marks_that_may_divide_thousands_in_a_matrix(tmp_path: Path, suffix: str) -> None:
    rows = [["0", "998", "1.050"], ["998", "0", "1.204"], ["1.050", "1.204", "0"]]
    file = tmp_path / f"m{suffix}"
    workbook(file, rows) if suffix == ".xlsx" else file.write_text(text(rows, ";"))
    with pytest.raises(DataError, match=r"1, column 3: '1\.050', which may mean 1050 or 1\.05\."):
        read_human_rdms(file)


def test_rows_of_other_lengths_that_leave_no_doubt(tmp_path: Path) -> None:
    for table in (
        "file_name;mos\na.jpg;1,5;\nb.jpg;2;\n",  # a mark at the end of each line
        'file_name\tmos\tsaid\na.jpg\t1.5\nb.jpg\t2\t"two\nlines"\n',
        "file_name,mos,,\na.jpg,1.5\n,,,,\nb.jpg,2,,\n",
    ):
        assert read_ratings(rated(tmp_path, table), "mos").ratings.tolist() == [1.5, 2]
    with pytest.raises(DataError, match="line 2: it ends before the column kind"):
        read_ratings(
            rated(tmp_path, "file_name,mos,kind\na.jpg,2\nb.jpg,2,\n"), RatingColumns("mos", category="kind")
        )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            "x{}.jpg,1\n",
            r"1 problem:\n  none of the 158 pictures that it names is in .*'x0\.jpg': are they in another",
        ),
        ("a{}.jpg,good\n", r"1 problem:\n  all 158 rows have one problem, such as line 2: mos is 'good'"),
        ("a{}.jpg,1,5\n", r"1 problem:\n  all 158 rows have one problem, such as line 2: '5' stands in no"),
        (
            "a{},1\n",
            r"none of the 158 .*, there is no file 'a0', but 'a0\.jpg': write names with their endings",
        ),
    ],
)
def test_one_cause_is_one_sentence(tmp_path: Path, rows: str, says: str) -> None:
    table = "file_name,mos\n" + "".join(rows.format(i) for i in range(158))
    rated(tmp_path, table, pictures=" ".join(f"a{i}.jpg" for i in range(158)))
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=says):
            read_ratings(tmp_path, "mos", skip_bad=skip_bad)


def test_names_that_another_system_wrote(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Köln é.jpg") for form in ("NFC", "NFD"))
    folder(
        tmp_path, f"Bilder/{decomposed}", f"{composed}", "x/Y.JPG", "same.jpg", "Same.jpg", "back\\slash.jpg"
    )
    found = {
        f"Bilder\\{composed}": f"Bilder/{decomposed}",
        decomposed: composed,
        "X\\y.jpg": "x/Y.JPG",
        ".\\same.jpg": "same.jpg",
        " ./Same.jpg ": "Same.jpg",
        "back\\slash.jpg": "back\\slash.jpg",
    }
    (tmp_path / "metadata.csv").write_text("file_name\n" + "\n".join(found) + "\n")
    assert [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)] == list(found.values())
    (tmp_path / "metadata.csv").write_text("file_name\nSAME.jpg\n")  # either
    with pytest.raises(DataError, match=r"no file 'SAME\.jpg'"):
        image_files(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\nsame.jpg\n.\\same.jpg\n")
    with pytest.raises(DataError, match="is named in line 2 already"):
        image_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["..\\a.jpg", "x\\..\\..\\a.jpg", "C:\\a.jpg", "\\\\server\\a.jpg", "~/a.jpg", "~me\\a.jpg"]
)
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    inner = rated(tmp_path / "set", f"file_name,mos\n{name},1\n")
    folder(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="lies outside the folder"):
        read_ratings(inner, "mos")


@pytest.mark.parametrize(
    "column", ["filename", "image", "Image Name", "file", "path", "Picture", "stimulus", "id"]
)
def test_other_names_of_table_and_column_are_guessed_and_said(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    rated(tmp_path, f"{column};mos\na.jpg;1,5\nb.jpg;2\n", "Ratings.CSV")
    data = read_ratings(tmp_path, "mos")
    assert data.ratings.tolist() == [1.5, 2]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path} has no metadata.csv; its only table, Ratings.CSV, is read.",
        f"{tmp_path / 'Ratings.CSV'} has no column file_name; {column!r} is taken for the pictures' names.",
    ]
    caplog.clear()
    assert len(read_ratings(tmp_path, RatingColumns("mos", image=column), table="Ratings.CSV")) == 2
    assert columns(tmp_path, tmp_path / "Ratings.CSV") == [column, "mos"]
    assert not caplog.records


def test_what_cannot_be_guessed_is_asked(tmp_path: Path) -> None:
    rated(tmp_path, "file,image,mos\na.jpg,b.jpg,1\n", "one.csv")
    with pytest.raises(DataError, match=r"no column 'file_name'.* with --image"):
        read_ratings(tmp_path, "mos")
    rated(tmp_path, "file_name,beauty_mean\na.jpg,1\n", "two.tsv")
    with pytest.raises(DataError, match=r"several tables, 'one\.csv', 'two\.tsv': say which with --table"):
        read_ratings(tmp_path, "mos")
    with pytest.raises(DataError, match=r"no column 'beauty'\. .* Did you mean 'beauty_mean'\?"):
        read_ratings(tmp_path, "beauty", table="two.tsv")
    assert image_files(tmp_path) == [tmp_path / f"{name}.jpg" for name in "abc"]  # never by a guessed table


@pytest.mark.parametrize(
    ("header", "target", "sd", "n", "said"),
    [
        ("mean_rating,sd,n", "mean_rating", True, True, 2),
        ("MOS,std,N", "MOS", True, True, 2),
        ("Beauty_Mean,Beauty_SD,Beauty_N", "Beauty_Mean", True, True, 2),
        ("mean_x,sd_x,n_x", "mean_x", True, True, 2),
        ("x_mean,x_sd,x_n", "x_mean", True, True, 0),
        ("x_mean,spread,raters", "x_mean", False, False, 1),  # spread might be a rating
    ],
)
def test_spread_and_raters_beside_a_mean(
    tmp_path: Path, header: str, target: str, sd: bool, n: bool, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    rated(tmp_path, f"file_name,{header}\na.jpg,1.5,0.5,10\nb.jpg,2.5,0.25,12\n")
    data = read_ratings(tmp_path, target)
    assert (data.sd is not None, data.n is not None) == (sd, n)
    assert len(caplog.records) == said
    assert read_ratings(tmp_path, RatingColumns(target, sd="-", n="-")).sd is None


def test_spread_that_may_be_anothers_is_not_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rated(tmp_path, "file_name,beauty,arousal,sd,n\na.jpg,1.5,2,0.5,1\nb.jpg,2.5,3,0.25,2\n")
    data = read_ratings(tmp_path, "beauty")
    assert data.sd is data.n is None  # n counts the rows
    assert [record.message for record in caplog.records] == [
        "'sd' may be the standard deviation of 'beauty' or not, and is not used: if it is, give --sd COLUMN."
    ]


def test_another_encoding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rated(tmp_path, "file_name,mos,who\na.jpg,1,Jürgen\n".encode("cp1252"))
    read_ratings(tmp_path, "mos")
    assert "is not in UTF-8; it is read as Windows-1252" in caplog.text


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.csv")
    for read in (read_table, read_human_rdms):
        with pytest.raises(DataError, match="not a plain file"):
            read(tmp_path / "pipe.csv")


# ---- matrices


def matrix(count: int = 5, seed: int = 0) -> np.ndarray:
    half = np.triu(np.random.default_rng(seed).random((count, count)).round(4), 1)
    return half + half.T


def named(found: np.ndarray, names: list[str], rows: list[int], cols: list[int]) -> list[list[Any]]:
    return [["", *(names[j] for j in cols)], *([names[i], *found[i, cols].tolist()] for i in rows)]


def text(rows: list[list[Any]], mark: str = ",") -> str:
    return "".join(mark.join(str(cell) for cell in row) + "\n" for row in rows)


CARD_IMAGES = ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.mark.parametrize("form", ["{}.png", "{}", "{}.PNG", "sub\\{}.png", "./{}.jpg"])
@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_rows_are_put_into_the_pictures_order_by_name(tmp_path: Path, form: str, suffix: str) -> None:
    found, names = matrix(), [form.format(letter) for letter in "abcde"]
    rows = named(found, names, [3, 1, 4, 0, 2], [2, 4, 0, 1, 3])
    file = tmp_path / f"named{suffix}"
    workbook(file, rows) if suffix == ".xlsx" else file.write_text(text(rows))
    folder(tmp_path / "pics", *CARD_IMAGES)
    cohort = read_stimulus_set(tmp_path / "pics", file)
    assert [picture.name for picture in cohort.files] == CARD_IMAGES
    assert (cohort.human_rdms.mean == found).all()
    own = read_human_rdms(file)
    assert own.names == tuple(names[i] for i in [3, 1, 4, 0, 2])
    assert (own.rdms[0] == found[np.ix_([3, 1, 4, 0, 2], [3, 1, 4, 0, 2])]).all()


def test_each_file_has_its_own_order(tmp_path: Path) -> None:
    found = [matrix(seed=0), matrix(seed=1)]
    (tmp_path / "people").mkdir()
    for i, order in enumerate([[4, 3, 2, 1, 0], [1, 0, 2, 4, 3]]):
        (tmp_path / "people" / f"{i}.csv").write_text(text(named(found[i], CARD_IMAGES, order, order)))
    assert (read_human_rdms(tmp_path / "people", 5, CARD_IMAGES).rdms == found).all()
    reversed_ = read_human_rdms(tmp_path / "people")
    assert reversed_.names == tuple(CARD_IMAGES[::-1])
    assert (reversed_.rdms[:, ::-1, ::-1] == found).all()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["a.png", "b.png", "c.png", "d.png", "x.png"],
            r"names 'x\.png'; it lacks 'e\.png'\. .*take the names out",
        ),
        (["a", "a", "c", "d", "e"], "several rows or columns of one name, 'a'"),
        (["cat", "dog", "cow", "sea", "sky"], "names 'cat', 'dog', 'cow' and 2 more"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, names: list[str], says: str) -> None:
    (tmp_path / "named.csv").write_text(text(named(matrix(), names, [*range(5)], [*range(5)])))
    with pytest.raises(DataError, match=says):
        read_human_rdms(tmp_path / "named.csv", 5, CARD_IMAGES)


def test_rows_and_columns_of_other_names_are_refused(tmp_path: Path) -> None:
    rows = named(matrix(), CARD_IMAGES, [*range(5)], [*range(5)])
    rows[0][2] = "z.png"
    (tmp_path / "named.csv").write_text(text(rows))
    with pytest.raises(DataError, match=r"its columns differently: no column is called 'b\.png'"):
        read_human_rdms(tmp_path / "named.csv")


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("form", ["{}", "V{}", "X{}"])
def test_numbers_of_rows_are_no_names_unless_pictures_are_called_by_them(
    tmp_path: Path, start: int, form: str
) -> None:
    found, count = matrix(11), 11
    labels = [form.format(i + start) for i in range(count)]
    rows = named(found, labels, [*range(count)], [*range(count)])
    (tmp_path / "numbered.csv").write_text(text(rows))
    plain = [f"{letter}.png" for letter in "abcdefghijk"]
    assert (read_human_rdms(tmp_path / "numbered.csv", count, plain).rdms[0] == found).all()
    numbered = sorted(f"img_{i + start}.png" for i in range(count))  # img_10 before img_2
    order = [int(name[4:-4]) - start for name in numbered]
    assert (
        read_human_rdms(tmp_path / "numbered.csv", count, numbered).rdms[0] == found[np.ix_(order, order)]
    ).all()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            [f"img{i}.png" for i in range(1, 12)],
            "number 2 is 'img10.png' if .* as text, 'img2.png' if numbers are",
        ),
        (
            ["Ant.png", "bee.png", "Cow.png"],
            "number 2 is 'Cow.png' if .* as text, 'bee.png' without regard to cap",
        ),
        (["a 9 x.png", "a 10 y.png", "b.png"], "number 1 is 'a 10 y.png' if"),
        (["a.png", "a1.png", "a-2.png", "a_3.png"], ""),
        ([f"img{i:02}.png" for i in range(1, 12)], ""),
    ],
)
def test_rows_without_names_need_pictures_in_one_order(tmp_path: Path, names: list[str], says: str) -> None:
    folder(tmp_path / "pics", *names)
    found = matrix(len(names))
    np.save(tmp_path / "m.npy", found)
    (tmp_path / "count.csv").write_text(
        text(named(found, [*map(str, range(len(names)))], *[[*range(len(names))]] * 2))
    )
    if not says:
        assert (read_stimulus_set(tmp_path / "pics", tmp_path / "m.npy").human_rdms.mean == found).all()
        return
    with pytest.raises(DataError, match=rf"m\.npy does not name its rows, .*{says}.* in a metadata\.csv"):
        read_stimulus_set(tmp_path / "pics", tmp_path / "m.npy")
    if not names[0].startswith("img"):  # numbered alike, numbers of rows are theirs
        with pytest.raises(DataError, match=r"count\.csv does not name its rows"):
            read_stimulus_set(tmp_path / "pics", tmp_path / "count.csv")
    (tmp_path / "pics" / "metadata.csv").write_text("\n".join(["file_name", *names]))
    for file in ("m.npy", "count.csv"):
        cohort = read_stimulus_set(tmp_path / "pics", tmp_path / file)
        assert [picture.name for picture in cohort.files] == names
        assert (cohort.human_rdms.mean == found).all()


@pytest.mark.parametrize(("pictures", "rows"), [(0, 1), (1, 0), (5, 1), (5, 0), (1, 1)])
def test_numbers_of_rows_are_in_the_order_of_the_pictures_numbers(
    tmp_path: Path, pictures: int, rows: int
) -> None:
    found, count = matrix(12), 12
    folder(tmp_path / "pics", *(f"img{pictures + i}.png" for i in range(count)))
    labels = [str(rows + i) for i in range(count)]
    (tmp_path / "m.csv").write_text(text(named(found, labels, [*range(count)], [*range(count)])))
    cohort = read_stimulus_set(tmp_path / "pics", tmp_path / "m.csv")
    order = [int(file.stem[3:]) - pictures for file in cohort.files]
    assert (cohort.human_rdms.mean == found[np.ix_(order, order)]).all()


def test_rows_with_and_without_names_in_another_order_are_refused(tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.mkdir()
    (people / "1.csv").write_text(text(matrix().tolist()))
    for order in ([0, 1, 2, 3, 4], [1, 0, 2, 4, 3]):
        (people / "2.csv").write_text(text(named(matrix(), CARD_IMAGES, order, order)))
        if order == sorted(order):
            assert len(read_human_rdms(people, 5, CARD_IMAGES)) == 2
    with pytest.raises(DataError, match=r"2\.csv names its rows, and .*1\.csv does not name its rows"):
        read_human_rdms(people, 5, CARD_IMAGES)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".csv", ".tsv", ".txt", ".xlsx"])
@pytest.mark.parametrize("form", ["row", "column", "flat", "people"])
def test_triangles(tmp_path: Path, suffix: str, form: str) -> None:
    from scipy import io as matlab
    from scipy.spatial.distance import squareform

    stack = np.array([matrix(5, seed) for seed in range(4)])
    vectors = np.array([squareform(one) for one in stack])
    array = {"row": vectors[:1], "column": vectors[:1].T, "flat": vectors[0], "people": vectors}[form]
    file = tmp_path / f"triangle{suffix}"
    if suffix == ".npy":
        np.save(file, array)
    elif suffix == ".mat":
        matlab.savemat(file, {"rdmutv": array, "note": "of 2019"})
    elif suffix == ".xlsx":
        workbook(file, np.atleast_2d(array).tolist())
    else:
        np.savetxt(file, np.atleast_2d(array), delimiter={".csv": ",", ".tsv": "\t", ".txt": " "}[suffix])
    assert (read_human_rdms(file, 5).rdms == (stack if form == "people" else stack[:1])).all()


def test_meadows_names_each_persons_pictures(tmp_path: Path) -> None:
    from scipy import io as matlab
    from scipy.spatial.distance import squareform

    found, content = [matrix(seed=0), matrix(seed=1)], {}
    for one, person, order in zip(
        found, ("calm_cat", "shy_ox"), ([4, 3, 2, 1, 0], [1, 0, 2, 4, 3]), strict=True
    ):
        content[f"rdmutv_{person}"] = squareform(one[np.ix_(order, order)])[None]
        content[f"stimuli_{person}"] = np.array([CARD_IMAGES[i][:1] for i in order], object)
    matlab.savemat(tmp_path / "Meadows.mat", content)
    assert (read_human_rdms(tmp_path / "Meadows.mat", 5, CARD_IMAGES).rdms == found).all()
    with pytest.raises(DataError, match=r"Meadows\.mat, rdmutv_calm_cat has other names"):
        read_human_rdms(tmp_path / "Meadows.mat", 5, [f"{i}{name}" for i, name in enumerate(CARD_IMAGES)])


@pytest.mark.parametrize("mark", [",", ";", "\t", "  ", "; ", " ;  "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("missing", ["0", "", "NaN", "NA"])
@pytest.mark.parametrize("half", ["both", "upper", "lower"])
def test_matrices_as_text(tmp_path: Path, mark: str, decimal: str, missing: str, half: str) -> None:
    if (decimal == "," and mark == ",") or (mark == "  " and not missing):
        pytest.skip("no such text")
    if half != "both" and missing in ("0", ""):
        pytest.skip("zeros are numbers, and a line without content is none")
    found = matrix()

    def cell(i: int, j: int) -> str:
        there = half == "both" or (j > i) == (half == "upper")
        return repr(float(found[i, j])).replace(".", decimal) if there and i != j else missing

    (tmp_path / "m.txt").write_text(text([[cell(i, j) for j in range(5)] for i in range(5)], mark))
    assert (read_human_rdms(tmp_path / "m.txt", 5).rdms[0] == found).all()


def test_arrays_with_nan_on_the_diagonal(tmp_path: Path) -> None:
    found = np.array([matrix(seed=seed) for seed in range(3)])
    holes = found.copy()
    holes[:, range(5), range(5)] = np.nan
    np.save(tmp_path / "m.npy", holes)
    assert (read_human_rdms(tmp_path / "m.npy").rdms == found).all()


def test_r_leaves_the_corner_out_and_pairs_in_rows_are_refused(tmp_path: Path) -> None:
    found = matrix()
    rows = named(found, CARD_IMAGES, [*range(5)], [*range(5)])
    rows[0] = rows[0][1:]
    (tmp_path / "r.txt").write_text(
        text([[f'"{c}"' if isinstance(c, str) else c for c in row] for row in rows], " ")
    )
    assert (read_human_rdms(tmp_path / "r.txt", 5, CARD_IMAGES).rdms[0] == found).all()
    (tmp_path / "long.csv").write_text("one,two,far\na,b,1\na,c,2\nb,c,3\n")
    with pytest.raises(DataError, match=r"a row for each pair .* pivot"):
        read_human_rdms(tmp_path / "long.csv")
    for wrong in ("1_5", "0x1F", "１"):
        (tmp_path / "m.csv").write_text(text([[0, wrong, 2], [wrong, 0, 3], [2, 3, 0]]))
        with pytest.raises(DataError, match=f"line 1, column 2: '{wrong}' is not a number"):
            read_human_rdms(tmp_path / "m.csv")


# ---- anything at all

PIECES = (
    "file_name", "mos", "mos_sd", "n", "theme", "a.jpg", "b.jpg", "c.jpg", "..\\a.jpg", "sep=;\n", ",", ";", "\t", " ", "\n",  # noqa: E501
    "\r\n", "\r", '"', '""', "1", "0", "2.5", "1,5", "1_5", "nan", "-1",
    "1e308", "1e999", "é", "\u2028", "\0", "=1+1",
    "\ufeff", "/", "~", "x" * 300,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_anything_gives_a_result_or_a_sentence(tmp_path: Path) -> None:
    """200 tables and matrices from pieces of tables, spoiled encodings, and true files with bytes changed."""
    logging.disable(logging.WARNING)
    folder(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rng = random.Random(0)
    true: dict[str, bytes] = {}
    rows: list[list[Any]] = [["file_name", "mos"], ["a.jpg", 1.5], ["b.jpg", 2], ["c.jpg", 3]]
    true[".csv"] = text(rows).encode()
    true[".xlsx"] = workbook(tmp_path / "true.xlsx", rows).read_bytes()
    np.save(tmp_path / "true.npy", matrix(3))
    true[".npy"] = (tmp_path / "true.npy").read_bytes()
    from scipy import io as matlab

    matlab.savemat(tmp_path / "true.mat", {"rdm": matrix(3), "stimuli": np.array(["a", "b", "c"], object)})
    true[".mat"] = (tmp_path / "true.mat").read_bytes()
    refused = 0
    try:
        for number_ in range(200):
            suffix = rng.choice([".csv", ".tsv", ".txt", ".xlsx", ".npy", ".mat"])
            if suffix in true and (number_ % 2 or suffix not in (".csv", ".tsv", ".txt")):
                data = bytearray(true[suffix])
                for _ in range(rng.randint(0, 8)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                data = data[: rng.choice([len(data), rng.randrange(len(data))])]
            else:
                head = rng.choice(["", "file_name,mos\n", "file_name;mos\n", "0,1,2\n1,0,3\n"])
                words = head + "".join(rng.choices(PIECES, k=rng.randint(0, 60)))
                data = bytearray(words.encode(rng.choice(ENCODINGS), "replace"))
            file = tmp_path / f"fuzzed{suffix}"
            file.write_bytes(data)
            for call in (
                lambda: read_ratings(tmp_path, "mos", table=file),  # noqa: B023
                lambda: read_ratings(tmp_path, "mos", table=file, skip_bad=True),  # noqa: B023
                lambda: read_human_rdms(file, images=["a.jpg", "b.jpg", "c.jpg"]),  # noqa: B023
            ):
                try:
                    result = call()
                except AISError as error:
                    refused += bool(str(error).strip())
                else:
                    values = getattr(result, "ratings", getattr(result, "rdms", None))
                    assert all(map(math.isfinite, np.ravel(values)))
    finally:
        logging.disable(logging.NOTSET)
    assert 100 < refused < 600
