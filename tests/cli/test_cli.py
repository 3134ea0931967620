"""The command: one JSON document on stdout, the rest on stderr, sentences instead of tracebacks."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import ais
from ais import cli
from ais.attribution.explanation import FILES
from ais.attribution.methods import METHODS
from ais.cli import _output
from ais.data.columns import RatingColumns
from ais.data.ratings import read_ratings
from ais.heads.config import BACKBONE, EMBEDDED
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.publish.card import CURVE, model_card
from ais.training.cross_validation import embed_ratings
from ais.training.plan import Plan
from ais.training.range_test import LRFinder
from ais.workflows.advise import advise
from helpers.commands import call
from helpers.pictures import odd_pictures
from helpers.sets import add_backbones, make_set, oasis

runner = CliRunner()

FOLDER = ("config.json", "model.safetensors", CURVE, "README.md")  # what a trained head consists of

COMMANDS = (
    *(
        "score",
        "explain",
        "heads",
        "backbones",
        "train",
        "find-rate",
        "advise",
        "card",
        "push",
        "pull",
        "combine",
        "evaluate",
        "prune",
    ),
    *("data oasis", "data aigciqa2023"),
)


def run(*arguments: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", "from ais.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.fixture
def cat(photograph: Image.Image, tmp_path: Path) -> Path:
    photograph.save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def test_score_in_words_json_and_csv(cat: Path, tmp_path: Path) -> None:
    expected = ais.score(cat)
    words = run("score", str(cat)).stdout
    assert f"beauty {expected.score:.2f} on a scale of 1 to 7" in words
    assert f"higher than {expected.percentile:.0f} % of the rated pictures" in words
    document = json.loads(run("score", str(tmp_path), "--json", "--output", str(tmp_path / "s.csv")).stdout)
    assert document["head"] == "beauty-efficientnet-lite0"
    assert document["target"]["high"] == 7
    assert document["pictures"] == [{"path": str(cat), **expected._asdict()}]
    with (tmp_path / "s.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["score"]) == expected.score


def test_score_of_bad_and_good_together(cat: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    result = run("score", str(tmp_path / "bad.jpg"), str(cat), "--json", status=2)
    bad, good = json.loads(result.stdout)["pictures"]
    assert "bad.jpg" in bad["error"]
    assert good["score"] == ais.score(cat).score
    assert "1 of 2 pictures could not be scored" in result.stderr


@pytest.mark.parametrize("method", METHODS)
def test_explain_with_no_network_and_no_cache(method: str, cat: Path, tmp_path: Path) -> None:
    home = tmp_path / "empty home"
    home.mkdir()
    command = ["explain", str(cat), "--out", str(tmp_path / "out"), "--method", method, "--json"]
    places = dict.fromkeys(("HOME", "HF_HOME", "TORCH_HOME"), str(home))
    bare = method == "ais"  # one start of the process is enough
    result = run(*command, **places, https_proxy="http://127.0.0.1:9") if bare else call(*command)
    document = json.loads(result.stdout)
    expected = ais.explain(cat, method=method)
    assert document["score"] == expected.score
    assert {"low", "high", "percentile", "head", "backbone", "method", "seconds"} <= document.keys()
    assert [Path(file).name for file in document["files"]] == list(FILES)
    np.testing.assert_allclose(np.load(document["files"][0]), expected.heatmap, atol=1e-5)


def test_the_range_that_is_printed_is_that_of_the_unit_beside_it(cat: Path, tmp_path: Path) -> None:
    for scale, what in (("density", "pixels"), ("points", "cells")):
        words = call("explain", str(cat), "--out", str(tmp_path / scale), "--scale", scale).stdout
        made = ais.explain(cat, scale=scale)  # type: ignore[arg-type]
        shown = made.density if scale == "density" else made.grid
        assert f"{what} from {np.nanmin(shown):+.3g} to {np.nanmax(shown):+.3g} {made.unit}" in words


def test_the_sum_is_printed_of_one_picture_of_several_and_of_a_stack(cat: Path, tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes(cat.read_bytes())
    for head in (EMBEDDED, "beauty-stack"):
        made = ais.explain(cat, head, "contribution")
        assert made.sum_of_places
        options = ["--head", head, "--method", "contribution", "--out"]
        for number, paths in enumerate(([cat], [cat, tmp_path / "other.png"])):
            lines = call(
                "explain", *map(str, paths), *options, str(tmp_path / f"{head}{number}")
            ).stdout.splitlines()
            for line in filter(None, [made.sum_in_words, made.sum_of_places]):
                assert lines.count(f"  {line}") == len(paths)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "nothing.jpg", "--out", "o"], "nothing.jpg"),
        (["score", "nothing.jpg"], "could not be scored"),
        (["score", "{folder}"], "no pictures in the folder"),
        (["score", "{cat}", "--head", "x"], "no head 'x'"),
        (["explain", "{cat}", "--out", "{cat}"], "Nothing was written"),
        (["explain", "{cat}"], "--out"),
        (["explain", "{cat}", "--out", "o", "--method", "lime"], "lime"),
        (["explain", "{cat}", "--out", "o", "--kind", "residual"], "needs the rating"),
        (
            ["explain", "{cat}", "--out", "o", "--rating", "3"],
            "--rating changes nothing with --kind prediction",
        ),
        (["explain", "{cat}", "--out", "o", "--kind", "dual", "--alignment", "a"], "choose --kind alignment"),
        (["explain", "{cat}", "--out", ""], "The path is empty: give --out"),
        (["explain", "{cat}", "--out="], "The path is empty: give --out"),
        (["score", "{cat}", "--output", ""], "The path is empty: give --output"),
        (["train", "{folder}", "--target", "x", "--out", "o"], "metadata.csv"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_calls_exit_with_2_and_a_sentence(
    arguments: list[str], sentence: str, cat: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    filled = [a.format(cat=cat, folder=tmp_path / "folder") for a in arguments]
    result = call(*filled, status=2)
    assert sentence in result.stderr
    assert "score" not in result.stdout


def test_a_wrong_call_of_the_real_command(tmp_path: Path) -> None:
    result = run("explain", str(tmp_path / "nothing.jpg"), "--out", str(tmp_path / "o"), status=2)
    assert "nothing.jpg" in result.stderr
    assert not result.stdout


def test_help_names_every_command_and_option() -> None:
    text = runner.invoke(cli.app, ["--help"]).stdout
    for name in COMMANDS:
        assert name.split()[0] in text
        page = runner.invoke(cli.app, [*name.split(), "--help"]).stdout
        assert "--json" in page
        assert len(page.splitlines()) > 5


def test_heads_and_backbones() -> None:
    heads = json.loads(runner.invoke(cli.app, ["heads", "--json"]).stdout)
    assert [head["name"] for head in heads] == ais.list_heads()
    assert heads[0]["name"] == "beauty-efficientnet-lite0"
    assert {"arousal-efficientnet-lite0", "beauty-stack", "valence-efficientnet-lite0"} < set(
        ais.list_heads()
    )
    assert len(heads) == 10
    _, *lines = runner.invoke(cli.app, ["heads"]).stdout.splitlines()
    for line, head in zip(lines, heads, strict=True):
        assert line.startswith(head["name"])
        assert f"PLCC {head['metrics']['plcc']:.3f}" in line
    assert "6 heads together" in lines[ais.list_heads().index("beauty-stack-448")]
    assert "3 heads together" in lines[ais.list_heads().index("beauty-stack")]
    backbones = {b["name"]: b for b in json.loads(runner.invoke(cli.app, ["backbones", "--json"]).stdout)}
    assert set(backbones) == set(ais.BACKBONES)
    assert backbones["efficientnet_lite0"]["available"]
    assert backbones["vgg19"]["file"].endswith("vgg19-dcbb9e9d.pth")
    assert "densenet161" in runner.invoke(cli.app, ["backbones"]).stdout


def test_names_cannot_command_the_terminal(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "\x1b[31mred.png")
    assert "\x1b" not in run("score", str(tmp_path)).stdout


def test_unexpected_errors_are_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.delenv("AIS_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def test_two_hundred_odd_pictures(tmp_path: Path) -> None:
    """Each gives a score or a sentence, in one call."""
    paths = odd_pictures(tmp_path / "odd")
    assert len(paths) >= 200
    result = run("score", "--json", "--", *map(str, paths), status=2)
    rows = json.loads(result.stdout)["pictures"]
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    scored = [row for row in rows if "score" in row]
    refused = [row for row in rows if "error" in row]
    assert len(scored) > 40
    assert len(refused) > 40
    assert len(scored) + len(refused) == len(rows)
    assert all(1 < row["score"] < 7.5 for row in scored)
    assert all(row["error"].endswith(".") and "\n" not in row["error"] for row in refused)


def test_trains_a_head_that_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of rated pictures to a heatmap: brighter is more beautiful here."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["file_name,beauty_mean,theme"]
    for i in range(40):
        level = i / 40
        pixels = generator.normal(40 + 170 * level, 20, (48, 64, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(data / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{1.5 + 5 * level:.2f},theme {i % 10}")
    (data / "metadata.csv").write_text("\n".join(lines))
    options = ["--target", "beauty_mean", "--low", "1", "--high", "7", "--variants", "2", "--json"]
    cache = str(tmp_path / "cache")
    made = run("train", str(data), *options, "--out", str(tmp_path / "bright"), AIS_CACHE=cache)
    config = json.loads(made.stdout)
    assert config["metrics"]["plcc"] > 0.8
    assert config["target"] == {"name": "beauty", "low": 1, "high": 7, "dataset": ""}
    assert str(tmp_path) not in config["recipe"]["command"]
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "another"))
    call("train", data, *options, "--out", tmp_path / "again")
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("bright", "again"))
    assert first == again
    result = call("train", data, "--target", "beauty_mean", "--out", tmp_path / "r", "--variants", "1")
    assert "taken to be 1 to 7" in result.stderr
    assert [Path(line.strip()).name for line in result.stdout.splitlines()[1:]] == list(FOLDER)
    head = ais.load_head(tmp_path / "bright")
    assert (tmp_path / "bright" / "README.md").read_text() == model_card(head.config)
    white, black = (ais.score(np.full((64, 64, 3), v, np.uint8), head).score for v in (220, 20))
    assert white > black


class Place(NamedTuple):
    """Two small backbones, a head on each, the pictures they learned from and others."""

    root: Path
    data: Path
    others: Path
    heads: Path


LEARN = ("--target", "rating_mean", "--low", "0", "--high", "10", "--variants", "2", "--folds", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        add_backbones(root, patch)
        made = Place(root, root / "data", root / "others", root / "heads")
        make_set(made.data)
        make_set(made.others, 40, seed=1)
        for name in ("little1", "little2"):
            call("train", made.data, *LEARN, "--backbone", name, "--out", made.heads / name)
        yield made


def change_table(source: Path, folder: Path, **columns: list[object]) -> Path:
    """The same pictures with other columns, or more."""
    shutil.copytree(source, folder)
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = str(value)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_train_with_the_columns_of_a_table(place: Place, tmp_path: Path) -> None:
    split = ["test" if i < 8 else "train" for i in range(36)]
    n, sd = [5 + i for i in range(36)], [0.5 + i % 3 for i in range(36)]
    data = change_table(place.data, tmp_path / "data", part=split, spread=sd, raters=n, theme=[""] * 36)
    (data / "0 9.png").write_bytes(b"no picture")
    command = [
        "train", data, *LEARN, "--backbone", "little1", "--sd", "spread", "--n", "raters", "--group", "-"
    ]  # fmt: skip
    command += ["--split", "part", "--out", tmp_path / "x", "--json"]
    assert "1 problem" in call(*command, status=2).stderr
    plain = call(*command, "--skip-bad")
    assert "1 problem, whose row is left out:\n  line 11" in plain.stderr
    metrics = plain.json["metrics"]
    assert metrics.items() >= {"pictures": 27, "groups": 27, "grouped": False}.items()
    assert metrics["test"]["pictures"] == 8
    assert 0 < metrics["ceiling"] < 1
    weighted = call(*command, "--skip-bad", "--weighted").json
    assert weighted["recipe"]["weighted"] is True
    assert weighted["metrics"]["plcc"] != metrics["plcc"]
    assert "On 8 test pictures" in (tmp_path / "x" / "README.md").read_text()
    assert [Path(file).name for file in weighted["files"]] == list(FOLDER)
    flat = change_table(place.data, tmp_path / "flat")
    (flat / "metadata.csv").write_text((flat / "metadata.csv").read_text().replace("rating_sd", "spread"))
    bare = ["train", flat, *LEARN, "--backbone", "little1", "--out", tmp_path / "y", "--weighted"]
    assert "needs columns" in call(*bare, status=2).stderr
    assert not (tmp_path / "y").exists()


def test_the_groups_that_a_head_was_trained_with_are_remembered(place: Place, tmp_path: Path) -> None:
    data = change_table(place.data, tmp_path / "data", author=[i // 9 for i in range(36)])
    command = ["train", data, *LEARN, "--backbone", "little1", "--out", tmp_path / "head", "--json"]
    config = call(*command, "--group", "author").json
    assert config["recipe"]["group"] == "author"
    report = call("evaluate", data, "--head", tmp_path / "head", "--json").json
    assert report["groups"] == 4
    assert report["metrics"].items() <= config["metrics"].items()
    assert call(*command).json["recipe"]["group"] == "theme"


@pytest.mark.parametrize(
    "options", [("--epochs", "3"), ("--learning-rate", "1e-3"), ("--strategy", "layerwise", "--last-k", "2")]
)
def test_options_that_would_change_nothing_are_refused(
    options: tuple[str, ...], place: Place, tmp_path: Path
) -> None:
    command = ["train", place.data, *LEARN, "--backbone", "little1", "--out", tmp_path / "head"]
    assert "changes nothing with --strategy" in call(*command, *options, status=2).stderr


def test_tunes_the_embedded_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on few pictures: the head's folder has its backbone, and everything finds it there."""
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "cache"))
    data = make_set(tmp_path / "data", 24)
    command = ["train", data.folder, *LEARN[:-2], "--folds", "2", "--strategy", "last-k", "--epochs", "4"]
    command += ["--learning-rate", "1e-4", "--last-k", "1", "--out", tmp_path / "tuned", "--json"]
    config = call(*command).json
    assert [Path(file).name for file in config["files"]][:3] == ["config.json", "model.safetensors", CURVE]
    assert (tmp_path / "tuned" / BACKBONE).is_file()
    tuning = config["recipe"]["tuning"]
    assert tuning.items() >= {"learning_rate": 1e-4, "epochs": 4, "last_k": 1}.items()
    assert config["recipe"]["strategy"] == "last-k"
    head = ais.load_head(tmp_path / "tuned")
    own, published = load_file(tmp_path / "tuned" / BACKBONE), ais.load_backbone("efficientnet_lite0").network
    changed = {name for name, value in published.state_dict().items() if not torch.equal(value, own[name])}
    assert own.keys() == published.state_dict().keys()
    assert all(name.startswith(("conv_head", "blocks.6")) for name in changed)
    assert json.loads(call("score", data.files[0], "--head", tmp_path / "tuned", "--json").stdout)[
        "pictures"
    ][0]["score"] == pytest.approx(ais.score(data.files[0], head).score)
    report = call("evaluate", data.folder, "--head", tmp_path / "tuned", "--json").json
    assert report["how"] == "cross-validation"
    assert report["metrics"].items() <= config["metrics"].items()


def test_a_head_of_another_size(place: Place, tmp_path: Path) -> None:
    """Trained, kept, shown, scored and combined with one of the backbone's own size."""
    command = ["train", place.data, *LEARN, "--backbone", "little1", "--size", "64"]
    config = call(*command, "--out", place.heads / "large", "--json").json
    assert (config["size"], config["view"]) == (64, "resize")
    assert "--size 64" in config["recipe"]["command"]
    assert "at 64 pixels" in (place.heads / "large" / "README.md").read_text()
    head = ais.load_head(place.heads / "large")
    data = read_ratings(place.data, RatingColumns("rating_mean", group="theme"))
    pictures = embed_ratings(data, ais.load_backbone("little1", view="resize", size=64))
    scores = call("score", place.data, "--head", place.heads / "large", "--json").json["pictures"]
    expected = dict(zip(map(str, data.files), head.score(pictures.embedding).tolist(), strict=True))
    assert {row["path"]: row["score"] for row in scores} == pytest.approx(expected, abs=1e-5)
    assert call("evaluate", place.data, "--head", place.heads / "large", "--json").json[
        "metrics"
    ].items() <= (config["metrics"].items())
    heads = ["--head", place.heads / "little1", "--head", place.heads / "large"]
    call("combine", place.data, *heads, "--out", place.heads / "sizes")
    out = tmp_path / "explained"
    shown = call("explain", data.files[0], "--head", place.heads / "sizes", "--out", out, "--json").json
    assert shown["backbone"] == "little1 + little1 at 64 px"
    parts = [
        ais.score(data.files[0], ais.load_head(place.heads / name)).score for name in ("little1", "large")
    ]
    stack = ais.load_head(place.heads / "sizes")
    assert isinstance(stack, StackedHead)
    assert shown["score"] == pytest.approx(np.dot(parts, stack.member_weights) + stack.constant, abs=1e-5)


@pytest.mark.parametrize("command", ["train", "advise", "find-rate"])
def test_a_size_that_cannot_be_is_a_sentence(command: str, place: Place, tmp_path: Path) -> None:
    words: list[object] = [command, place.data, "--target", "rating_mean", "--backbone", "little1"]
    words += [] if command == "advise" else ["--out", tmp_path / "x.png"]
    result = call(*words, "--size", "72", status=2)
    assert "A size of 72 pixels cannot be used: choose 32, the network's own, or a multiple" in result.stderr


def test_find_rate(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "rate.png"
    command = ["find-rate", place.data, "--target", "rating_mean", "--backbone", "little1", "--out", out]
    document = call(*command, "--strategy", "last-k", "--json").json
    assert document["file"] == str(out)
    steps = len(document["rates"])
    assert [len(losses) for losses in (document["losses"], *document["trials"])] == [steps] * 4
    assert bool(document["reason"]) == (document["suggested"] is None)
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    assert call(*command, "--strategy", "scratch").stdout.startswith(
        ("Suggested: --learning-rate ", "No rate can be suggested: ")
    )
    assert "no rate to find" in call(*command, "--strategy", "head", status=2).stderr

    rates, losses = np.geomspace(1e-3, 1e-1, 3), np.array([1.0, 0.5, np.inf])
    found = LRFinder(rates, np.array([[1.0, 0.5, np.nan]]), losses, 1e-3)
    monkeypatch.setattr("ais.workflows.find_rate.find_rate", lambda *_: found)
    document = call(*command, "--json").json
    assert (document["losses"], document["suggested"]) == ([1, 0.5, None], 1e-3)
    assert call(*command).stdout.startswith("Suggested: --learning-rate 1.0e-03\n")
    found = replace(found, suggested=None, reason="the loss hardly changes between here and there")
    document = call(*command, "--json").json  # exit status 0: it is an answer
    assert (document["suggested"], document["reason"]) == (None, found.reason)
    assert call(*command).stdout.startswith(
        "No rate can be suggested: the loss hardly changes between here and there. Without --learning-rate, "
    )


def test_advise(place: Place) -> None:
    command = ["advise", place.data, "--target", "rating_mean", "--backbone", "little1"]
    document = call(*command, "--json").json
    data = read_ratings(place.data, RatingColumns("rating_mean", group="theme"))
    pictures = embed_ratings(data, ais.load_backbone("little1", view="resize"))
    expected = advise(pictures.embedding, data.ratings, data.groups, document["ceiling"])
    assert document["plcc"] == pytest.approx(expected.plcc)
    assert (document["strategy"], document["pictures"]) == ("head", 36)
    assert 0.9 < document["ceiling"] < 1
    words = call(*command).stdout
    assert words.startswith("--strategy head\n")
    assert document["reasons"][0] in words


def test_combine(place: Place, tmp_path: Path) -> None:
    members = [place.heads / "little1", place.heads / "little2"]
    command = ["combine", place.data, "--head", f"{members[0]}/", "--head", members[1]]
    document = call(*command, "--out", place.heads / "both", "--json").json
    assert [member["head"] for member in document["members"]] == ["little1", "little2"]
    assert [Path(file).name for file in document["files"]] == [
        "config.json",
        "model.safetensors",
        "README.md",
    ]
    assert document["recipe"]["command"] == ("ais combine data --head little1 --head little2 --out both")
    stack = ais.load_head(place.heads / "both")
    assert isinstance(stack, StackedHead)
    assert (place.heads / "both" / "README.md").read_text() == model_card(stack.config)
    words = call(*command, "--out", place.heads / "again").stdout
    assert words.startswith(f"again: PLCC {document['metrics']['plcc']:.3f} (")
    report = call("evaluate", place.others, "--head", place.heads / "both", "--json").json
    assert (report["how"], report["pictures"]) == ("unseen", 40)
    picture = sorted(place.others.glob("*.png"))[0]
    scores = [ais.score(picture, head).score for head in members]
    expected = np.dot(stack.weight.numpy(), scores) + stack.intercept.item()
    assert ais.score(picture, stack).score == pytest.approx(expected, abs=1e-4)

    def refused(*arguments: object) -> str:
        return call("combine", *arguments, status=2).stderr

    both = ["--head", members[0], "--head", members[1]]
    assert "at least two" in refused(*command[1:4], "--out", place.heads / "c")
    assert "beside its own folder" in refused(place.data, *both, "--out", tmp_path / "c")
    assert "take the place of its member" in refused(place.data, *both, "--out", members[1])
    stacked = ["--head", place.heads / "both", "--head", members[0]]
    assert "A stack cannot be a member" in refused(place.data, *stacked, "--out", place.heads / "c")
    assert "no head 'x'" in refused(place.data, "--head", "x", "--out", place.heads / "c")
    assert not (tmp_path / "c").exists()
    assert not (place.heads / "c").exists()
    assert isinstance(ais.load_head(members[1]), RegressionHead)


def test_evaluate(place: Place, tmp_path: Path) -> None:
    head = ais.load_head(place.heads / "little1")
    command = ["evaluate", place.data, "--head", place.heads / "little1"]
    report = call(*command, "--json").json
    assert (report["how"], report["pictures"], report["left_out"]) == ("cross-validation", 36, 0)
    assert report["metrics"].items() <= head.config.metrics.items()
    assert report["ceiling"] == head.config.metrics["ceiling"]
    assert {c["name"] for c in report["categories"]} == {"a", "b"}
    words = call(*command).stdout
    assert f"PLCC     {report['metrics']['plcc']:.3f}" in words
    assert "each scored by variants that have seen neither it nor its group" in words
    assert "allows a PLCC of" in words

    out = tmp_path / "judged"
    command = ["evaluate", place.others, "--head", place.heads / "little1", "--out", out, "--heatmaps"]
    report = call(*command, "--pictures", "2", "--json").json
    assert (report["how"], report["heatmaps"]["pictures"]) == ("unseen", 2)
    names = ["evaluation.json", "predictions.csv", "scatter.png", "worst.jpg"]
    assert [Path(file).name for file in report.pop("files")] == names
    assert sorted(file.name for file in out.iterdir()) == names
    assert json.loads((out / "evaluation.json").read_text()) == report
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = read_ratings(place.others, RatingColumns("rating_mean", group="theme"))
    assert [place.others / row["file_name"] for row in rows] == data.files
    assert [row["group"] for row in rows] == data.groups
    np.testing.assert_allclose([float(row["rated"]) for row in rows], data.ratings)
    for row, file in list(zip(rows, data.files, strict=True))[:3]:
        assert float(row["predicted"]) == pytest.approx(ais.score(file, head).score, abs=1e-4)
    for name in names[2:]:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100
    words = call(*command, "--pictures", "2").stdout
    assert "higher is better" in words
    assert re.search(r"^contribution less gradcam +[+-]\d\.\d{3} \(", words, re.MULTILINE)
    assert "worst.jpg" in words


def test_evaluate_heatmaps(place: Place) -> None:
    command = ["evaluate", place.data, "--head", place.heads / "little1"]
    options = ["--heatmaps", "--steps", "2", "--hide", "grey", "--hide", "blur"]
    for name in ("ais:typical+fine", "occlusion", "random"):
        options += ["--method", name]
    result = call(*command, *options, "--json")
    found = result.json["heatmaps"]
    assert (found["pictures"], found["groups"], found["steps"]) == (36, 18, 2)
    assert list(found["methods"]) == ["ais:typical+fine", "occlusion", "random"]
    assert found["hide"] == ["grey", "blur"]
    assert re.search(r"^Measuring 3 heatmaps of 36 pictures will take about \d", result.stderr, re.MULTILINE)
    assert [(one["of"], one["less"]) for one in found["differences"]] == [
        ("ais:typical+fine", "occlusion"),
        ("ais:typical+fine", "random"),
    ]
    lines = call(*command, *options, "--pictures", "22").stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Heatmaps of 22 pictures in"))
    assert "each explained by the head of its fold, which has not seen it" in lines[start]
    table = [line for line in lines[start:] if line.startswith(("heatmap ", "ais:typical+fine  "))]
    assert re.split("  +", table[0]) == [
        "heatmap", "deletion, grey", "insertion, grey", "deletion, blur", "insertion, blur",
    ]  # fmt: skip
    for one, other in zip(table[::2], table[1::2], strict=True):  # columns stand below one another
        assert (
            one.index("one-sided" if "one-sided" in one else "deletion")
            == re.search(r" [+-]?\d", other).start() + 1
        )
    assert "of slow methods are of 20 of the pictures" in lines[-1]


def test_evaluate_heatmaps_refuses(place: Place) -> None:
    command = ["evaluate", place.others, "--head", place.heads / "little1"]
    for options, sentence in (
        (["--method", "ais"], "give --heatmaps, too"),
        (["--steps", "14"], "give --heatmaps, too"),
        (["--heatmaps", "--steps", "101"], "--steps"),
        (
            ["--heatmaps", "--method", "nosuch"],
            "There is no method 'nosuch'. Choose one of: contribution, ais",
        ),
        (["--heatmaps", "--method", "ais:no"], "no baseline 'no'. Choose one of: zero, typical"),
        (["--heatmaps", "--hide", "black"], "There is no way of hiding 'black'. Choose one of: blur, grey"),
        (["--heatmaps", "--pictures", "1"], "--pictures"),
    ):
        assert sentence in call(*command, *options, status=2).stderr


def test_evaluate_some_and_parts(place: Place, tmp_path: Path) -> None:
    """Seen pictures are left out, and --split takes those for testing."""
    both = change_table(place.others, tmp_path / "both", part=["test"] * 20 + ["val"] * 20)
    table = (both / "metadata.csv").read_text()
    row = (place.data / "metadata.csv").read_text().splitlines()[1]
    (both / "metadata.csv").write_text(f"{table.rstrip()}\n{row},training\n")
    shutil.copy(place.data / row.split(",")[0], both)
    command = ["evaluate", both, "--head", place.heads / "little2"]
    report = call(*command, "--json").json
    assert (report["pictures"], report["left_out"]) == (40, 1)
    assert "1 more were left out" in call(*command).stdout
    assert call(*command, "--split", "part", "--group", "-", "--json").json.items() >= {
        "pictures": 20, "groups": 20, "grouped": False, "left_out": 0,
    }.items()  # fmt: skip
    none = change_table(place.others, tmp_path / "none", part=["train"] * 40)
    result = call("evaluate", none, "--head", place.heads / "little2", "--split", "part", status=2)
    assert "no pictures for testing" in result.stderr


def test_evaluate_with_the_default_head(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On pictures that it has not seen, with a column of another name."""
    data = read_ratings(place.others, "rating_mean").rows(np.arange(12))
    table = "file_name,charm\n" + "\n".join(
        f"{file.name},{rating}" for file, rating in zip(data.files, data.ratings, strict=True)
    )
    for file in data.files:
        shutil.copy(file, tmp_path)
    (tmp_path / "metadata.csv").write_text(table)
    assert "no column 'beauty_mean'" in call("evaluate", tmp_path, status=2).stderr
    report = call("evaluate", tmp_path, "--target", "charm", "--json").json
    assert (report["head"], report["how"], report["pictures"]) == (ais.list_heads()[0], "unseen", 12)
    predicted = [ais.score(file).score for file in data.files]
    plcc = np.corrcoef(predicted, data.ratings)[0, 1]
    assert report["metrics"]["plcc"] == pytest.approx(plcc, abs=1e-4)
    assert report["worst"][0]["predicted"] == pytest.approx(
        predicted[int(np.argmax(np.abs(predicted - data.ratings)))], abs=1e-4
    )


def test_prune(place: Place, tmp_path: Path) -> None:
    command = ["prune", place.others, "--head", place.heads / "little1", "--out", place.heads / "lean"]
    document = call(*command, "--json").json
    assert (document["head"], document["criterion"], document["maps"]) == ("lean", "greedy", 12)
    head = ais.load_head(place.heads / "lean")
    assert isinstance(head, RegressionHead)
    assert len(head.config.pruned) == document["pruned"]
    assert head.config.recipe["command"] == "ais prune others --head little1 --out lean"
    assert Plan.of(head.config).variants == 2
    text = (place.heads / "lean" / "README.md").read_text()
    assert text == model_card(head.config)
    assert f"{document['pruned']} of its 12 feature maps are pruned: permanently set to zero" in text
    words = call(*command, "--how", "negative", "--seed", "2").stdout
    assert "of 12 maps pruned (negative)" in words
    again = ["prune", place.data, "--head", place.heads / "lean", "--out", place.heads / "leaner"]
    document = call(*again, "--json").json
    leaner = ais.load_head(place.heads / "leaner")
    assert isinstance(leaner, RegressionHead)
    assert len(leaner.config.pruned) == document["pruned"]
    assert document["newly_pruned"] < document["pruned"]
    words = call(*again).stdout
    assert (
        f"{document['pruned']} of 12 maps pruned, {document['newly_pruned']} of them newly (greedy)" in words
    )
    assert "gain beyond chance" in words
    known = call("prune", place.data, *command[2:4], "--out", tmp_path / "known", "--json").json
    assert set(known["test"]) == {"before", "after"}
    before = (place.heads / "little1" / "model.safetensors").read_bytes()
    over = call(
        "prune", place.others, "--head", place.heads / "little1", "--out", place.heads / "little1", status=2
    )
    assert "would be written over" in over.stderr
    assert (place.heads / "little1" / "model.safetensors").read_bytes() == before
    stack = call("prune", place.others, "--head", "beauty-stack", "--out", tmp_path / "s", status=2)
    assert "prune its members" in stack.stderr
    assert not (tmp_path / "s").exists()


def test_prune_takes_a_tuned_backbone_along(place: Place, tmp_path: Path) -> None:
    tuned = ["--backbone", "little1", "--strategy", "last-k", "--epochs", "4", "--last-k", "1"]
    call("train", place.data, *LEARN, *tuned, "--learning-rate", "3e-3", "--out", tmp_path / "tuned")
    call("prune", place.others, "--head", tmp_path / "tuned", "--out", tmp_path / "lean")
    assert (tmp_path / "lean" / BACKBONE).read_bytes() == (tmp_path / "tuned" / BACKBONE).read_bytes()
    picture = sorted(place.others.glob("*.png"))[0]
    assert ais.score(picture, tmp_path / "lean").score
    refused = call("prune", place.data, "--head", tmp_path / "tuned", "--out", tmp_path / "again", status=2)
    assert "has learned from these pictures, too" in refused.stderr


def test_a_bad_table_names_every_line_at_once(place: Place, tmp_path: Path) -> None:
    data = change_table(place.data, tmp_path / "data")
    lines = (data / "metadata.csv").read_text().splitlines()
    lines[3] = lines[3].replace("0 2.png", "gone.png")
    lines[7] = "0 6.png,beautiful,1,9,theme,a"
    lines[9] = "0 8.png,4,-1,0,,a"
    (data / "metadata.csv").write_text("\n".join(lines))
    heads = ["--head", place.heads / "little1"]
    for command in (["train", *LEARN, "--out", "o"], ["advise", *LEARN[:2]], ["evaluate", *heads],
                    ["prune", *heads, "--out", "o"], ["find-rate", *LEARN[:2], "--out", "o"]):  # fmt: skip
        result = call(command[0], data, *command[1:], status=2)
        assert not result.stdout
        assert "5 problems:" in result.stderr
        for words in (
            "line 4: there is no file 'gone.png'",
            "line 8: rating_mean is 'beautiful'",
            "line 10: rating_sd is -1",
            "line 10: rating_n is 0",
            "line 10: the group theme is empty",
        ):
            assert words in result.stderr
    others = change_table(place.others, tmp_path / "others")
    lines = (others / "metadata.csv").read_text().splitlines()
    lines[3], lines[7] = "gone.png,3,1,9,theme,a", lines[7].split(",")[0] + ",beautiful,1,9,theme,a"
    lines[9] = lines[9].split(",")[0] + ",4,-1,0,,a"
    (others / "metadata.csv").write_text("\n".join(lines))
    report = call("evaluate", others, *heads, "--skip-bad", "--json")
    assert "5 problems, whose rows are left out:" in report.stderr
    assert report.json["skipped"] == 5


def test_data_oasis(tmp_path: Path) -> None:
    source = oasis(tmp_path / "source")
    command = ["data", "oasis", source, "--beauty", source / "beauty.csv"]
    document = call(*command, "--out", tmp_path / "one", "--json").json
    assert document["pictures"] == 3
    assert document["file"] == str(tmp_path / "one" / "metadata.csv")
    assert {"file_name", "beauty_mean", "valence_mean", "theme"} < set(document["columns"])
    words = call(*command[:3], "--out", tmp_path / "two").stdout
    assert words.startswith("3 pictures, with the columns file_name, ")
    assert "beauty_mean" not in words
    assert "is not overwritten" in call(*command, "--out", tmp_path / "one", status=2).stderr
    assert "no folder" in call("data", "oasis", tmp_path / "x", "--out", tmp_path / "o", status=2).stderr


def test_data_aigciqa2023(generated: tuple[Path, object], tmp_path: Path) -> None:
    command = ["data", "aigciqa2023", generated[0], "--out", tmp_path / "out"]
    document = call(*command, "--json").json
    assert document["pictures"] == 2400
    assert {"quality_mean", "authenticity_mean", "correspondence_mean"} < set(document["columns"])
    assert "is not overwritten" in call(*command, status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/home/me/data", "--out", "/home/me/x"], "data --out x"),
        (["/home/me/data/", "--out=/home/me/x/"], "data --out=x"),
        (["--out=./x", "--json", "data"], "--out=x data"),
        (["data", "--about", "Whose they are, in /home/me", "--out", "x"], "data --out x"),
        (
            ["data", "--about=Whose they are", "--out", "x", "--dataset", "A B"],
            "data --out x --dataset 'A B'",
        ),
    ],
)
def test_a_public_card_names_no_folder_of_this_machine(
    arguments: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ais", "train", *arguments])
    folders = [Path(name) for name in ("/home/me/data", "data", "/home/me/x", "x")]
    assert _output.command_of(*folders) == f"ais train {shown}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "{data}", "--target", "rating_mean", "--out", "o", "--strategy", "magic"], "magic"),
        (["train", "{data}", "--target", "rating_mean", "--out", "o", "--backbone", "x"], "no backbone 'x'"),
        (["train", "{data}", "--target", "charm", "--out", "o"], "no column 'charm'"),
        (["train", "{data}", "--target", "rating_mean", "--out", "o", "--group", "x"], "no column 'x'"),
        (
            ["train", "{data}", "--target", "rating_mean", "--out", "o", "--split", "theme"],
            "not train, validation",
        ),
        (["train", "{data}", "--target", "rating_mean", "--out", "o", "--high", "5"], "off the scale"),
        (["train", "{data}", "--target", "rating_mean", "--out", "o", "--folds", "1"], "--folds"),
        (["find-rate", "{data}", "--target", "rating_mean"], "--out"),
        (["advise", "{data}"], "--target"),
        (["combine", "{data}", "--out", "o"], "--head"),
        (["evaluate", "{data}", "--head", "x"], "no head 'x'"),
        (["evaluate", "{root}", "--target", "x"], "metadata.csv"),
        (["prune", "{data}", "--out", "o", "--how", "all"], "all"),
        (["data", "oasis"], "Missing argument"),
        (["data", "imagenet", "{data}"], "imagenet"),
    ],
)
def test_wrong_calls_of_the_commands_for_heads(
    arguments: list[str], sentence: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*(a.format(data=place.data, root=place.root) for a in arguments), status=2)
    assert sentence in result.stderr
    assert not result.stdout
    assert not list(tmp_path.iterdir())
