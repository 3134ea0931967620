"""Every command that writes looks at its place before it computes: nothing of the user's is written over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

from ais.cli._options import app
from ais.heads.regression import RegressionHead
from helpers.commands import call
from helpers.heads import make_head
from helpers.sets import add_backbones, make_set, oasis

RATINGS = ("--target", "rating_mean")


class Place(NamedTuple):
    root: Path
    data: Path
    heads: Path


class Writes(NamedTuple):
    """A command, with {out} for its place: a folder, or a file where `name` is empty."""

    command: str
    name: str
    reads: bool = True  # pictures that it must not write over


COMMANDS = {
    "score": Writes("score {data} --head {heads}/one --output {out}", ""),
    "explain": Writes("explain {data}/overlay.png --head {heads}/one --out {out}", "overlay.png"),
    "explain many": Writes("explain {data} --head {heads}/one --out {out}", "0/overlay.png"),
    "explain alignment": Writes(
        "explain {data}/0.png --kind alignment --alignment {data}/overlay.png --out {out}", "overlay.png"
    ),
    "train": Writes("train {data} --target rating_mean --backbone little1 --out {out}", "learning_curve.png"),
    "find-rate": Writes("find-rate {data} --target rating_mean --backbone little1 --out {out}", ""),
    "combine": Writes("combine {data} --head {heads}/one --head {heads}/two --out {out}", "README.md", False),
    "evaluate": Writes("evaluate {data} --head {heads}/one --out {out}", "scatter.png"),
    "prune": Writes("prune {data} --head {heads}/one --out {out}", "learning_curve.png"),
    "align": Writes(
        "align {data} --rdm {data}/rdm.npy --backbone little1 --out {out}", "little1/rdms.png", False
    ),
    "card": Writes("card {out} --example {data}/0.png", "README.md", False),
    "pull": Writes("pull user/head --out {out}", "config.json", False),
    "data oasis": Writes("data oasis {root}/oasis --out {out}", "metadata.csv", False),
}

NO_FILES = {"heads", "backbones", "advise", "push", "data aigciqa2023"}  # the last is as `data oasis`


def test_no_command_is_forgotten() -> None:
    groups: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    inner = {name: list(getattr(command, "commands", [])) for name, command in groups.items()}
    names = {f"{name} {sub}".rstrip() for name, subs in inner.items() for sub in (subs or [""])}
    assert names == {name.split(" many")[0].split(" alignment")[0] for name in COMMANDS} | NO_FILES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        add_backbones(root, patch)
        place = Place(root, root / "data", root / "heads")
        make_set(place.data, 12)
        table = (place.data / "metadata.csv").read_text()
        # Pictures of the names that the commands' own files have, all of them rated.
        names = ("0.png", "overlay.png", "scatter.png", "learning_curve.png", "scores.csv")
        for number, name in enumerate(names):
            (place.data / f"0 {number}.png").rename(place.data / name)
            table = table.replace(f"\n0 {number}.png,", f"\n{name},")
        (place.data / "metadata.csv").write_text(table)
        distances = np.abs(np.subtract.outer(np.arange(12.0), np.arange(12.0)))
        np.save(place.data / "rdm.npy", distances)
        for name in ("one", "two"):
            head: RegressionHead = make_head("little1", size=32, view="resize")
            head.config.recipe["target"] = "rating_mean"
            head.save(place.heads / name)
        oasis(root / "oasis")
        yield place


@pytest.fixture(autouse=True)
def _nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("It computes before it looks.")

    for name in (
        "attribution.explain.explain", "workflows.evaluate.score_held_out", "workflows.prune.prune_head",
        "workflows.score.score_images", "heads.loading.resolve_revision", "workflows.align.align",
        "backbones.loading.load_backbone", "workflows.combine.combine_heads", "workflows.find_rate.find_rate",
        "workflows.train.train_head",
    ):  # fmt: skip
        monkeypatch.setattr(f"ais.{name}", computed)
    monkeypatch.setattr("ais.data.converters.oasis.find_files", computed)


def state_of(folder: Path) -> list[tuple[str, int, bytes]]:
    return sorted(
        (str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )


def refused(writes: Writes, made: Place, out: Path) -> str:
    words = [word.format(out=out, **made._asdict()) for word in writes.command.split()]
    before = state_of(made.root)
    result = call(*words, status=2)
    assert state_of(made.root) == before
    assert not result.stdout
    return result.stderr


def make_folder(place: Path) -> None:
    place.mkdir()
    (place / "mine").write_text("mine")


TAKEN: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "pipe": os.mkfifo,
    "link": lambda place: place.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_plain_file_stays(name: str, kind: str, made: Place) -> None:
    writes = COMMANDS[name]
    out = made.heads / "out"
    try:
        if name == "card":
            shutil.copytree(made.heads / "one", out)
        place = out / writes.name
        place.parent.mkdir(parents=True, exist_ok=True)
        TAKEN[kind](place)
        sentence = refused(writes, made, out)
        words = {"folder": "folder", "pipe": "device or a pipe", "link": "link"}[kind]
        assert any(said in sentence for said in (words, "not empty", "exists already"))
    finally:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("score", "card")])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(name: str, made: Place) -> None:
    for out in (Path("/proc/nothere/out"), made.data / "0.png" / "out"):
        sentence = refused(COMMANDS[name], made, out)
        assert "Nothing was written" in sentence or (
            name == "combine" and "beside its own folder" in sentence
        )


@pytest.mark.parametrize("name", [name for name, writes in COMMANDS.items() if writes.reads])
def test_what_a_command_reads_it_does_not_write_over(name: str, made: Place) -> None:
    writes = COMMANDS[name]
    out = made.data if writes.name else made.data / "scatter.png"
    if "/" in writes.name:  # into a folder of its own
        out = made.root / "out"
        out.mkdir()
        (out / "0").symlink_to(made.data)
    try:
        assert "is read by this call" in refused(writes, made, out)
    finally:
        if out.parent == made.root and out != made.data:
            shutil.rmtree(out)


@pytest.mark.parametrize("name", ["train", "prune", "combine"])
def test_a_head_is_not_written_among_files_that_are_not_a_heads(name: str, made: Place) -> None:
    out = made.heads / "project"
    for mine in ("README.md", "config.json", "thesis.tex"):
        out.mkdir()
        (out / mine).write_text("{}")
        assert "not a head's" in refused(COMMANDS[name], made, out)
        shutil.rmtree(out)


def test_the_citation_and_the_examples_of_a_card_stay(made: Place) -> None:
    head = made.heads / "one"
    shutil.copy(made.data / "0.png", head / "heatmaps.png")
    (head / "README.md").write_text("@article{}")
    try:
        for option in (f"--example {head}/heatmaps.png", f"--citation {head}/README.md"):
            assert "is read by this call" in refused(Writes(f"card {{heads}}/one {option}", ""), made, head)
    finally:
        (head / "heatmaps.png").unlink()
        (head / "README.md").unlink()


def test_scores_are_written_over_scores_alone_and_under_no_other_kinds_name(made: Place) -> None:
    for name in ("mine.csv", "photo.png", "book.xlsx"):
        mine = made.heads / name
        mine.write_bytes(b"not of AIS")
        try:
            sentence = refused(Writes("score {data} --head {heads}/one --output {out}", ""), made, mine)
            assert ("not a table of scores" if name == "mine.csv" else "ends in .csv") in sentence
        finally:
            mine.unlink()


def test_the_figure_of_rates_is_a_png(made: Place) -> None:
    command = "find-rate {data} --target rating_mean --backbone little1 --strategy last-k --out {out}"
    assert "ends in .png" in refused(Writes(command, ""), made, made.heads / "photo.jpg")


def test_a_head_is_an_input_too(made: Place) -> None:
    writes = Writes("score {data} --head {heads}/one --output {heads}/one/config.json", "")
    assert "is read by this call" in refused(writes, made, made.heads)
