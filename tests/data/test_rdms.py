from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io

from ais.data.rdms import read_human_rdms
from ais.errors import DataError

SIMILARITY92 = Path(__file__).parents[3] / "shared" / "data" / "similarity92"


def matrices(people: int = 3, count: int = 5, seed: int = 0) -> np.ndarray:
    half = np.triu(np.random.default_rng(seed).random((people, count, count)).round(6), 1)
    return half + half.transpose(0, 2, 1)


def spoiled(i: int, j: int, value: float, people: int = 1) -> np.ndarray:
    """The last person's matrix with one other number."""
    found = matrices(people)
    found[-1, i, j] = value
    return found


def table(rows: list[list[Any]], mark: str = ",") -> str:
    return "\n".join(mark.join(str(cell) for cell in row) for row in rows) + "\n"


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_a_matrix_and_a_stack_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: Any) -> None:
    stack = (100 * matrices()).astype(dtype)
    for name, array in [("stack", stack), ("one", stack[0])]:
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(file, array)
        else:
            io.savemat(file, {"rdm": array, "names": np.array(["a", "b"]), "rate": 3.5})
    found = read_human_rdms(tmp_path / f"stack{suffix}", 5)
    assert (found.rdms == stack).all()
    assert found.rdms.dtype == np.float64
    assert len(found) == 3
    assert found.mean == pytest.approx(stack.astype(float).mean(0))
    assert (read_human_rdms(tmp_path / f"one{suffix}").rdms == stack[:1]).all()


@pytest.mark.parametrize(("people", "count"), [(3, 5), (5, 5), (7, 5), (1, 5)])
def test_the_people_may_come_last(tmp_path: Path, people: int, count: int) -> None:
    stack = matrices(people, count)
    io.savemat(tmp_path / "last.mat", {"rdms": np.moveaxis(stack, 0, 2)})
    io.savemat(tmp_path / "first.mat", {"rdms": stack})
    for name in ("first", "last"):
        assert (read_human_rdms(tmp_path / f"{name}.mat", count).rdms == stack).all()


NAMES = ["cat", "dog", "tree, old", "7", "sea"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("names", [NAMES, [*range(5)], [*range(1, 6)]], ids=["words", "from 0", "from 1"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("corner", ["", "picture"])
def test_a_table_may_have_names_or_not(
    tmp_path: Path, mark: str, names: list[Any], header: bool, column: bool, corner: str
) -> None:
    matrix = matrices(1)[0]
    quoted = [f'"{name}"' for name in names]
    rows = [[quoted[i]] * column + list(row) for i, row in enumerate(matrix)]
    file = tmp_path / "judgments.csv"
    file.write_text(table([[corner] * column + quoted] * header + rows, mark), encoding="utf-8-sig")
    assert (read_human_rdms(file, 5).rdms == matrix).all()


def test_a_folder_holds_a_file_for_each_person_in_the_order_of_their_names(tmp_path: Path) -> None:
    stack = matrices()
    np.save(tmp_path / "b.npy", stack[1])
    (tmp_path / "a.csv").write_text(table(stack[0].tolist()))
    io.savemat(tmp_path / "c.mat", {"rdm": stack[2]})
    (tmp_path / "notes.txt").write_text("nothing to read")
    (tmp_path / ".a.npy").write_text("a trace of another program")
    assert (read_human_rdms(tmp_path, 5).rdms == stack).all()
    np.save(tmp_path / "d.npy", matrices(1, 6))
    with pytest.raises(DataError, match=r"d\.npy is about 6 pictures and a\.csv about 5"):
        read_human_rdms(tmp_path)


def test_single_precision_is_symmetric_enough(tmp_path: Path) -> None:
    stack = matrices()
    stack[:, 0, 1] *= 1 + 1e-7
    stack[:, 2, 2] = 1e-9
    np.save(tmp_path / "rdms.npy", stack)
    found = read_human_rdms(tmp_path / "rdms.npy").rdms
    assert (found == found.transpose(0, 2, 1)).all()
    assert not np.diagonal(found, axis1=1, axis2=2).any()
    assert found == pytest.approx(matrices(), rel=1e-6)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (spoiled(1, 3, np.nan), r"rdms\.npy: .* of pictures 2 and 4 is nan"),
        (spoiled(1, 3, np.inf, 3), r"rdms\.npy, person 3: .* of pictures 2 and 4 is inf"),
        (spoiled(1, 3, 0.9, 2), r"person 2 is not symmetric: .* pictures 2 and 4 is 0\.9 one way and 0\.\d+ the"),
        (spoiled(2, 2, 0.5), r"picture 3 to itself is 0\.5, not 0"),
        (1 - matrices(), r"picture 1 to itself is 1, not 0\. If these are similarities"),
        (1 - np.eye(5), "equally dissimilar"),
        (np.zeros((2, 5, 5)), "person 1: all pictures are equally dissimilar"),
        (np.ones((4, 5)), "4 × 5 numbers, not a square matrix"),
        (np.ones(11), "11 numbers, not a square matrix"),
        (np.array(3.0), "a single number"),
        (np.ones((2, 3, 4)), "2 × 3 × 4 numbers"),
        (np.ones((1, 2, 3, 3)), "1 × 2 × 3 × 3 numbers"),
        (1 - np.eye(2), "about 2 pictures: at least 3"),
        (np.empty((0, 5, 5)), "contains no matrices"),
        (matrices(1, 6), "about 6 pictures, and there are 5"),
        (matrices() * 1j, "real numbers"),
        (np.full((5, 5), "a"), "real numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, array: np.ndarray, says: str) -> None:
    np.save(tmp_path / "rdms.npy", array)
    with pytest.raises(DataError, match=says) as refusal:
        read_human_rdms(tmp_path / "rdms.npy", 5 if "there are 5" in says else None)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "is empty"),
        ([[0, 1, 2], [1, 0], [2, 3, 0]], "line 2: 2 cells, where the first line has 3"),
        ([["", "a", "b", "c"], ["a", 0, 1, "x"], ["b", 1, 0, 3], ["c", 2, 3, 0]], "line 2, column 4: 'x' is not"),
        ([[0, 1, 2], [1, 0, 3], [2, "", 0]], "line 3, column 2: the cell is empty"),
        ([[0, 1, 2], [1, 0, "NaN"], [2, "NaN", 0]], "pictures 2 and 3 is nan"),
        ([[0, 1, 2, 3], [1, 0, 3, 3]], "2 × 4 numbers"),
        ([["a", "b"]], "not a square matrix"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_table_is_said_with_its_line(tmp_path: Path, rows: list[list[Any]], says: str) -> None:
    file = tmp_path / "judgments.csv"
    file.write_text(table(rows) if rows else "\n\n")
    with pytest.raises(DataError, match=says):
        read_human_rdms(file)


def test_matlab_files_with_no_matrix_or_several_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rdms.mat"
    stack = matrices()
    io.savemat(file, {"first": stack[0], "second": stack})
    with pytest.raises(DataError, match=r"several square matrices, first, second: save"):
        read_human_rdms(file)
    io.savemat(file, {"pairs": np.arange(11.0), "names": np.full((3, 3), "a", object)})
    with pytest.raises(DataError, match=r"no square matrix or stack of them, .*; it holds pairs, names"):
        read_human_rdms(file)
    io.savemat(file, {"rdm": stack[0] * 1j})
    with pytest.raises(DataError, match="complex"):
        read_human_rdms(file)
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(DataError, match=r"7\.3 file: save it again"):
        read_human_rdms(file)


WORDS = ["d.png", "b.png", "e.png", "a.png", "c.png"]

CELLS = np.array(WORDS, object)

INDICES = np.array([str(i) for i in range(1, 6)], object)


@pytest.mark.parametrize(
    "others",
    [
        {"animals": CELLS},
        {"order": CELLS[:, None]},
        {"x": np.array(WORDS)},  # lines of characters
        {"info": {"who": {"stimuli": CELLS, "count": 5}}},
        {"all": np.array([CELLS, INDICES, 5], object)},
        {
            "files": np.array(
                [(word, i) for i, word in enumerate(WORDS)], [("name", object), ("bytes", object)]
            )
        },  # dir
        {"labels": INDICES, "zz": CELLS},
        {"labels": np.array(["u", "v", "w", "x", "y"], object), "zz": CELLS, "again": CELLS},
    ],
)
def test_the_pictures_names_are_found_wherever_matlab_keeps_them(
    tmp_path: Path, others: dict[str, Any]
) -> None:
    found = matrices(1)[0]
    io.savemat(tmp_path / "m.mat", {"rdm": found, **others})
    order = [WORDS.index(name) for name in sorted(WORDS)]
    assert (
        read_human_rdms(tmp_path / "m.mat", 5, sorted(WORDS)).rdms[0] == found[np.ix_(order, order)]
    ).all()


def test_names_in_words_are_surer_than_numbers(tmp_path: Path) -> None:
    found, pictures = matrices(1)[0], [f"img{i}.png" for i in range(1, 6)]
    names = np.array([pictures[i] for i in (3, 1, 4, 0, 2)], object)
    io.savemat(tmp_path / "m.mat", {"rdm": found, "labels": INDICES, "zz": names})
    order = [3, 1, 4, 0, 2]
    assert (read_human_rdms(tmp_path / "m.mat", 5, pictures).rdms[0][np.ix_(order, order)] == found).all()


def test_matlab_names_that_leave_a_doubt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, found = tmp_path / "m.mat", matrices(1)[0]
    io.savemat(file, {"rdm": found, "shown": CELLS, "stimuli": CELLS[::-1]})
    with pytest.raises(DataError, match="the pictures' names in several orders, shown, stimuli"):
        read_human_rdms(file, 5, sorted(WORDS))
    io.savemat(file, {"rdm": found, "kinds": np.array(["u", "v", "w", "x", "y"], object)})
    assert (read_human_rdms(file, 5, sorted(WORDS)).rdms[0] == found).all()
    assert "what kinds holds is not taken for the pictures' names" in caplog.text
    io.savemat(file, {"rdm": found})
    content = BytesIO()
    io.savemat(content, {"x": np.zeros(2, np.uint32)})
    words = [
        struct.pack("<II", 1, len(word)) + word.ljust(8, b"\0") for word in (b"names", b"MCOS", b"string")
    ]
    opaque = b"".join([struct.pack("<4I", 6, 8, 17, 0), *words, content.getvalue()[128:]])  # of class 17
    file.write_bytes(file.read_bytes() + struct.pack("<II", 14, len(opaque)) + opaque)
    with pytest.raises(DataError, match=r"an object of MATLAB, such as a string array .* cellstr\(names\)"):
        read_human_rdms(file, 5, sorted(WORDS))


def test_one_person_twice_in_a_folder_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "s1.npy", matrices(1)[0])
    (tmp_path / "S1.csv").write_text(table(matrices(1)[0].tolist()))
    with pytest.raises(DataError, match=r"S1\.csv and s1\.npy, which may be the same person twice"):
        read_human_rdms(tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".mat"])
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\xff\xfe\x00 nothing \x80", bytes(300), bytes(range(256)) * 9]
)
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"rdms{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError, match="rdms") as refusal:
        read_human_rdms(file)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    np.save(whole, matrices()) if suffix == ".npy" else io.savemat(whole, {"rdm": matrices()})
    content = whole.read_bytes()
    for length in (len(content) - 8, len(content) // 2, 140):
        (tmp_path / f"cut{suffix}").write_bytes(content[:length])
        with pytest.raises(DataError, match="cut"):
            read_human_rdms(tmp_path / f"cut{suffix}")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "rdms.npy", np.array([[{}, {}], [{}, {}]], object), allow_pickle=True)
    with pytest.raises(DataError, match="not an array"):
        read_human_rdms(tmp_path / "rdms.npy")


def test_a_file_that_promises_more_than_it_holds_allocates_nothing(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999, 99999), }".ljust(117) + b"\n"
    (tmp_path / "rdms.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="damaged"):
        read_human_rdms(tmp_path / "rdms.npy")


def test_what_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*rdms\.npy"):
        read_human_rdms(tmp_path / "rdms.npy")
    with pytest.raises(DataError, match=r"holds no dissimilarity matrices"):
        read_human_rdms(tmp_path)
    with pytest.raises(DataError, match=r"give a \.npy, \.mat, \.csv, .* file"):
        read_human_rdms(tmp_path / "rdms.pdf")


@pytest.mark.skipif(not SIMILARITY92.exists(), reason="similarity92 is not here")
def test_twelve_people_on_ninety_two_pictures_are_read() -> None:
    assert read_human_rdms(SIMILARITY92 / "human_rdms.npy", 92).rdms.shape == (12, 92, 92)
