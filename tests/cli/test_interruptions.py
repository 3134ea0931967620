"""What was done before a signal, a full disk or a name that cannot be shown is not lost."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ais
from ais import cli
from ais.attribution import explain as attribution_explain
from ais.cli import _inputs
from ais.cli import explain as cli_explain
from ais.cli._output import ProgressBars
from ais.errors import UnwritableError
from ais.io.files import GrowingFile
from ais.workflows import score as scoring
from helpers.commands import call

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures of two shapes, and a cache of its own."""
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "photos"
    made.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        size = (48, 64) if i % 2 else (64, 48)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(made / f"{i}.png")
    return made


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """Signals do what they do at first, also where the tests were started in the background, which ignores some."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, after: int, number: int) -> None:
    """From now on the process gets a signal when a function of the command has given `after` results."""
    module = scoring if name == "score_images" else attribution_explain
    original, given = getattr(module, name), 0

    def one(*arguments: Any, **options: Any) -> Any:
        nonlocal given
        if given == after:
            os.kill(os.getpid(), number)
        given += 1
        return original(*arguments, **options)

    def each(*arguments: Any, **options: Any) -> Iterator[Any]:
        for n, result in enumerate(original(*arguments, **options)):
            if n == after:
                os.kill(os.getpid(), number)
            yield result

    monkeypatch.setattr(module, name, each if name == "score_images" else one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_lines_come_one_by_one(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(number)
    interrupt(monkeypatch, "score_images", 3, number)
    result = call("score", folder, status=128 + number)
    assert len(result.stdout.splitlines()) == 3
    assert f"3 of {COUNT} pictures are done, and printed." in result.stderr
    assert signal.getsignal(number) is before


def test_a_document_of_what_was_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, "score_images", 3, signal.SIGINT)
    assert len(call("score", folder, "--json", status=130).json["pictures"]) == 3


def test_the_table_holds_what_was_done(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "scores.csv"
    with monkeypatch.context() as patch:
        interrupt(patch, "score_images", 3, signal.SIGINT)
        result = call("score", folder, "--output", table, status=130)
    assert str(table) in result.stderr
    assert not result.stdout
    with table.open() as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["0.png", "1.png", "2.png"]
    whole = call("score", folder, "--output", table)
    assert whole.stdout == f"{table}: {COUNT} of {COUNT} pictures scored\n"
    assert len(table.read_text().splitlines()) == COUNT + 1
    assert not list(tmp_path.glob("*.partial"))


def test_explanations_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, "explain", 2, signal.SIGTERM)
    result = call("explain", folder, "--out", tmp_path / "out", "--json", status=143)
    assert len(result.json["pictures"]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1"]


def test_a_table_that_gets_full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, rows = GrowingFile.write, 0

    def filling(table: GrowingFile, text: str) -> None:
        nonlocal rows
        rows += 1
        if rows > 2:
            raise UnwritableError("No more could be written: No space left on device.")
        write(table, text)

    monkeypatch.setattr(GrowingFile, "write", filling)
    result = call("score", folder, "--output", tmp_path / "scores.csv", status=2)
    assert len(result.stdout.splitlines()) == COUNT - 2
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 3
    assert "The first 2 pictures are in" in result.stderr


def test_a_second_run_reads_what_the_first_saw(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are those of `ais.score`, whichever way they came."""
    first = call("score", folder, "--json").json["pictures"]
    monkeypatch.setattr(ais.FrozenBackbone, "forward", None)
    assert call("score", folder, "--json").json["pictures"] == first
    assert "unexpected" in call("score", folder, "--no-cache", status=1).stderr
    monkeypatch.undo()
    for row in first:
        assert row["score"] == pytest.approx(ais.score(row["path"]).score, abs=1e-4)


def test_many_explanations(folder: Path, tmp_path: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "0.png").rename(folder / "sub" / "1.png")
    (folder / "5.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    result = call("explain", folder, "--out", out, "--head", "beauty-stack", status=2)
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "2", "3", "4", "sub-1.png"]
    assert "5.png" in result.stdout
    assert "1 of 6 pictures could not be explained." in result.stderr
    assert "one picture" in call("explain", folder, "--out", out, "--rating", "3", status=2).stderr


def test_one_that_is_too_much_for_the_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = attribution_explain.explain

    def explain(source: Path, *arguments: Any, **options: Any) -> Any:
        if source.name == "1.png":
            raise MemoryError
        if source.name == "3.png":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return original(source, *arguments, **options)

    monkeypatch.setattr(attribution_explain, "explain", explain)
    result = call("explain", folder, "--out", tmp_path / "out", status=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "2", "4", "5"]
    assert result.stdout.count("not enough memory for this picture") == 2


def test_a_folder_without_pictures_among_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in (["score"], ["explain", "--out", tmp_path / "out"]):
        result = call(*command, tmp_path / "empty", folder, "--json", status=2)
        assert len(result.json["pictures"]) == COUNT
        assert "no pictures in the folder" in result.stderr
        assert "no pictures in the folder" in call(*command, tmp_path / "empty", status=2).stderr


def test_a_table_that_another_run_is_writing(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    with GrowingFile(table):
        result = call("score", folder, "--output", table, status=2)
        assert "Another run is writing" in result.stderr
        assert len(result.stdout.splitlines()) == COUNT


def test_a_picture_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = (folder / "0.png").read_bytes()
    for command in (["score", "-", "--json"], ["explain", "-", "--out", tmp_path / "out", "--json"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        document = call(*command).json
        row = document["pictures"][0] if command[0] == "score" else document
        assert row["score"] == pytest.approx(ais.score(folder / "0.png").score, abs=1e-4)
    assert "which can be read once" in call("score", "-", "-", status=2).stderr


def test_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    call("score", "~/0.png", "--output=~/new/scores.csv")
    assert (folder / "new" / "scores.csv").is_file()
    call("explain", "~/0.png", "--out", "~/out")
    assert (folder / "out" / "overlay.png").is_file()


class Full(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_terminal_that_cannot_show_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "0.png").rename(folder / "🦓.png")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "cp1252"))
    monkeypatch.setattr(sys, "argv", ["ais", "score", str(folder)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert len(shown.getvalue().splitlines()) == COUNT


def test_a_disk_that_is_full_of_printed_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_close_stdout", lambda: None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full(), 1), "utf-8"))
    monkeypatch.setattr(sys, "argv", ["ais", "heads"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "could not be printed: No space left" in capsys.readouterr().err


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("ais.cli._output.time.monotonic", lambda: now)
    with ProgressBars() as bars:
        for done in range(1001):  # a minute and forty seconds
            bars("pictures", done, 1000)
            now += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 20
    assert lines[0] == "pictures: 100 of 1000"


def test_a_terminal_has_a_bar_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBars("loading") as bars:
        time.sleep(0.9)
        assert "loading" in sys.stderr.getvalue()  # type: ignore[attr-defined]
        bars("pictures", 1, 2)
        assert "pictures" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_folder_names_differ_whatever_the_case() -> None:
    def named(*paths: str) -> list[str]:
        return cli_explain.folder_names([_inputs.InputImage(path, Path(path), Path("f")) for path in paths])

    assert named("f/a.jpg", "f/b.jpg") == ["a", "b"]
    assert named("f/a.jpg", "f/A.png", "f/b.jpg") == ["a.jpg", "A.png", "b"]
    assert named("f/x/a.jpg", "f/y/a.jpg") == ["x-a.jpg", "y-a.jpg"]
    assert len({name.casefold() for name in named("f/a.jpg", "f/A.JPG", "f/a.jpg")}) == 3


def test_documents_are_json_to_the_last_name(folder: Path) -> None:
    (folder / "0.png").rename(folder / "\udcff.png")
    document = json.loads(call("score", folder, "--json").stdout)
    assert "\udcff" in document["pictures"][-1]["path"]
