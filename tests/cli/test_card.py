"""`ais card`: the config's words and the card anew, the weights as they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ais.heads.config import CONFIG, EMBEDDED, WEIGHTS
from ais.heads.format import read_config
from ais.heads.shipped import heads_directory
from ais.publish.card import CURVE, EXAMPLES, model_card
from helpers.commands import call

BIBTEX = "@misc{one,\n  title = {A title}\n}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the default head, named as it is."""
    return Path(shutil.copytree(heads_directory() / EMBEDDED, tmp_path / EMBEDDED))


@pytest.fixture
def cat(photograph: Image.Image, tmp_path: Path) -> Path:
    photograph.save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def in_step(folder: Path) -> bool:
    return (folder / "README.md").read_text(encoding="utf-8") == model_card(read_config(folder))


def test_without_options_a_card_in_step_stays_as_it_is(folder: Path) -> None:
    before = bytes_of(folder)
    printed = call("card", folder)
    assert bytes_of(folder) == before
    assert printed.stdout.split() == [str(folder / CONFIG), str(folder / "README.md")]


def test_a_card_out_of_step_is_written_anew(folder: Path) -> None:
    before = bytes_of(folder)
    (folder / "README.md").write_text("Mine.", encoding="utf-8")
    call("card", folder)
    assert bytes_of(folder) == before


def test_words_come_into_config_and_card_and_nothing_else_changes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cite.bib").write_text(BIBTEX + "\n\n", encoding="utf-8")
    before = bytes_of(folder)
    old = read_config(folder)
    given = {"about": "Whose? Mine & yours, 7 µm.", "license": "cc-by-nc-4.0", "citation": BIBTEX}
    printed = call(
        "card", folder, "--about", given["about"], "--license", given["license"],
        "--citation", tmp_path / "cite.bib", "--json",
    )  # fmt: skip
    assert read_config(folder) == replace(old, **given)
    assert in_step(folder)
    after = bytes_of(folder)
    assert {name for name in after if after[name] != before[name]} == {CONFIG, "README.md"}
    assert printed.json["license"] == "cc-by-nc-4.0"
    assert printed.json["files"] == [str(folder / CONFIG), str(folder / "README.md")]
    there, here = json.loads(before[CONFIG]), json.loads(after[CONFIG])
    assert list(here) == list(there)
    for name in there.keys() - given.keys():
        assert line_of(after, name, here) == line_of(before, name, there)
    call("card", folder, "--about", "", "--license", "mit")
    assert read_config(folder) == replace(old, about="", license="mit", citation=BIBTEX)


def line_of(files: Mapping[str, bytes], name: str, config: dict[str, Any]) -> str:
    """The field as its bytes in the file."""
    text = files[CONFIG].decode()
    start = text.index(f'\n  "{name}": ')
    return text[start : text.find('\n  "', start + 1) if name != list(config)[-1] else None]


def test_examples_are_shown_and_kept(folder: Path, cat: Path) -> None:
    (folder / EXAMPLES).unlink()
    weights = (folder / WEIGHTS).read_bytes()
    call("card", folder)
    assert "examples" not in read_config(folder).recipe  # there is nothing to show any more
    assert EXAMPLES not in (folder / "README.md").read_text(encoding="utf-8")
    printed = call("card", folder, "--example", cat, "--example", cat)
    assert str(folder / EXAMPLES) in printed.stdout
    with Image.open(folder / EXAMPLES) as sheet:
        assert sheet.width == 1200
    assert in_step(folder)
    assert f"]({EXAMPLES})" in (folder / "README.md").read_text(encoding="utf-8")
    call("card", folder, "--license", "mit")
    assert read_config(folder).recipe["examples"] == EXAMPLES
    assert (folder / WEIGHTS).read_bytes() == weights


def test_a_picture_that_is_gone_is_shown_no_more(folder: Path) -> None:
    (folder / CURVE).unlink()
    call("card", folder)
    assert f"]({CURVE})" not in (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_stays_that_of_its_repository_and_space(folder: Path) -> None:
    config = read_config(folder)
    text = model_card(config, "user/repo", "user/space")
    (folder / "README.md").write_text(text, encoding="utf-8")
    call("card", folder, "--license", "mit")
    expected = model_card(replace(config, license="mit"), "user/repo", "user/space")
    assert (folder / "README.md").read_text(encoding="utf-8") == expected


def test_fields_of_a_newer_ais_stay(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_bytes())
    (folder / CONFIG).write_text(json.dumps(config | {"newer": [1, {"a": 0.5}]}), encoding="utf-8")
    call("card", folder, "--license", "mit")
    assert json.loads((folder / CONFIG).read_bytes()) == config | {"newer": [1, {"a": 0.5}], "license": "mit"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--license", "My own"], "is no licence's name on the Hub"),
        (["--license", ""], "is no licence's name on the Hub"),
        (["--citation", "nowhere.bib"], "nowhere.bib cannot be read: No such file"),
        (["--citation", "latin.bib"], "latin.bib is not text in UTF-8"),
        (["--about", "\udcff"], "cannot hold what is not a finite number or text in UTF-8"),
        (["--example", "nowhere.png"], "nowhere.png"),
        (["--example", "a"] * 5, "up to 4 examples"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_a_sentence_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.bib").write_bytes(b"@misc{\xe9}")
    before = bytes_of(folder)
    assert sentence in call("card", folder, *arguments, status=2).stderr
    assert bytes_of(folder) == before


def test_a_folder_without_a_head_is_a_sentence(tmp_path: Path) -> None:
    assert "config.json" in call("card", tmp_path, status=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_the_heads_own_weights_are_explained_not_those_of_a_shipped_head(
    folder: Path, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / WEIGHTS).write_bytes(b"damaged")
    assert WEIGHTS in call("card", EMBEDDED, "--example", cat, status=2).stderr
