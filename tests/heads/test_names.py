"""The commands mean what they say where a folder is called as a head that comes with AIS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import ais
from ais.cli._output import command_of
from ais.heads.config import EMBEDDED
from ais.heads.format import read_config
from ais.publish.card import model_card
from helpers.commands import call
from helpers.heads import change_head, make_head
from helpers.sets import add_backbones, make_set

SENTENCE = (
    f"'{EMBEDDED}' is both a head that comes with AIS and a folder here: write ./{EMBEDDED} for the folder"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch:
        add_backbones(root, patch)
        make_set(root / "data")
        yield root / "data"


@pytest.fixture
def here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Image.Image) -> Path:
    """The working folder, with a small head that is called as the default one."""
    head = change_head(make_head("little1", size=32, view="resize"), name="mine")
    head.save(tmp_path / EMBEDDED, model_card(head.config))
    photograph.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_that_could_be_either_is_refused(here: Path, data: Path) -> None:
    for command in (
        ["score", "photo.png"],
        ["explain", "photo.png", "--out", "out"],
        ["evaluate", data],
        ["prune", data, "--out", "out"],
        ["combine", data, "--head", "beauty-stack", "--out", "out"],
    ):
        refused = call(*command, "--head", EMBEDDED, status=2)
        assert SENTENCE in " ".join(refused.stderr.split())
        assert not refused.stdout
    assert not (here / "out").exists()


def test_with_a_separator_it_is_the_folder(here: Path, data: Path) -> None:
    head = f"./{EMBEDDED}"
    assert call("score", "photo.png", "--head", head, "--json").json["head"] == "mine"
    assert ais.explain("photo.png", head).head == ais.explain("photo.png", Path(EMBEDDED)).head == "mine"
    target = ["--target", "rating_mean"]
    assert call("evaluate", data, "--head", head, *target, "--json").json["head"] == "mine"
    call("prune", data, "--head", head, *target, "--out", "pruned")
    assert read_config(here / "pruned").channels == 12  # of the small head's network
    refused = call("combine", data, "--head", head, "--head", "beauty-stack", "--out", "out", status=2)
    assert SENTENCE not in refused.stderr


def test_a_folder_that_a_command_asks_for_is_one(here: Path) -> None:
    call("card", EMBEDDED, "--about", "Mine alone.")
    assert read_config(here / EMBEDDED).about == "Mine alone."
    assert "There is no head in beauty-stack" in call("push", "beauty-stack", "user/head", status=2).stderr


def test_a_default_that_nobody_typed_is_the_one_that_comes_with_ais(here: Path) -> None:
    assert call("score", "photo.png", "--json").json["head"] == EMBEDDED
    assert ais.explain("photo.png").head == ais.load_head().config.name == EMBEDDED
    assert ais.score("photo.png").score == ais.explain("photo.png").score


def test_a_recorded_command_names_the_folder_again(
    here: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command was told of a head's folder with a shipped head's name means that folder when it is run again."""
    monkeypatch.setattr(
        "sys.argv", ["ais", "prune", str(data), "--head", f"./{EMBEDDED}", "--out", str(here / EMBEDDED)]
    )
    told = command_of(data, here / EMBEDDED, Path(f"./{EMBEDDED}"))
    assert told == f"ais prune data --head ./{EMBEDDED} --out {EMBEDDED}"
