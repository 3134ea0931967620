"""The command: one JSON document on stdout, the rest on stderr, sentences instead of tracebacks."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ais
from ais import cli
from ais.explain import FILES
from ais.hub import model_card
from pictures import odd_pictures

runner = CliRunner()


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


@pytest.mark.parametrize("method", ["ais", "gradcam", "occlusion"])
def test_explain_with_no_network_and_no_cache(method: str, cat: Path, tmp_path: Path) -> None:
    home = tmp_path / "empty home"
    home.mkdir()
    result = run(
        "explain", str(cat), "--out", str(tmp_path / "out"), "--method", method, "--json",
        HOME=str(home), HF_HOME=str(home), TORCH_HOME=str(home), https_proxy="http://127.0.0.1:9",
    )  # fmt: skip
    document = json.loads(result.stdout)
    expected = ais.explain(cat, method=method)
    assert document["score"] == expected.score
    assert {"low", "high", "percentile", "head", "backbone", "method", "seconds"} <= document.keys()
    assert [Path(file).name for file in document["files"]] == list(FILES)
    np.testing.assert_allclose(np.load(document["files"][0]), expected.heatmap, atol=1e-5)


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
        (["train", "{folder}", "--target", "x", "--out", "o"], "metadata.csv"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_calls_exit_with_2_and_a_sentence(
    arguments: list[str], sentence: str, cat: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    filled = [a.format(cat=cat, folder=tmp_path / "folder") for a in arguments]
    result = run(*filled, status=2)
    assert sentence in result.stderr
    assert "score" not in result.stdout


def test_help_names_every_command_and_option() -> None:
    text = runner.invoke(cli.app, ["--help"]).stdout
    for name in ("score", "explain", "heads", "backbones", "train"):
        assert name in text
        page = runner.invoke(cli.app, [name, "--help"]).stdout
        assert "--json" in page
        assert len(page.splitlines()) > 5


def test_heads_and_backbones() -> None:
    (head, *_) = json.loads(runner.invoke(cli.app, ["heads", "--json"]).stdout)
    assert head["name"] == "beauty-efficientnet-lite0"
    assert "PLCC" in runner.invoke(cli.app, ["heads"]).stdout
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
    def fail() -> None:
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


def test_trains_a_head_that_explains(tmp_path: Path) -> None:
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
    command = [
        "train",
        str(data),
        "--target",
        "beauty_mean",
        "--low",
        "1",
        "--high",
        "7",
        "--variants",
        "2",
        "--json",
    ]
    cache = str(tmp_path / "cache")
    config = json.loads(run(*command, "--out", str(tmp_path / "bright"), AIS_CACHE=cache).stdout)
    assert config["metrics"]["plcc"] > 0.8
    assert config["target"] == {"name": "beauty", "low": 1, "high": 7, "dataset": ""}
    assert str(tmp_path) not in config["recipe"]["command"]
    run(*command, "--out", str(tmp_path / "again"), AIS_CACHE=cache)
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("bright", "again"))
    assert first == again
    result = run(
        "train", str(data), "--target", "beauty_mean", "--out", str(tmp_path / "r"), "--variants", "1"
    )
    assert "taken to be 1 to 7" in result.stderr
    head = ais.load_head(tmp_path / "bright")
    assert (tmp_path / "bright" / "README.md").read_text() == model_card(head.config)
    white, black = (ais.score(np.full((64, 64, 3), v, np.uint8), head).score for v in (220, 20))
    assert white > black
