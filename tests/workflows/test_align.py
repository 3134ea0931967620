"""Stimuli from folder and matrices to numbers, scores of the maps and heatmaps; and the command."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from typer.testing import CliRunner

from ais import cli
from ais.attribution.map_importance import read_map_importance
from ais.backbones.embeddings import embed
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone
from ais.data.rdms import HumanRDMs
from ais.errors import AISError, DataError
from ais.plots import rsa
from ais.rsa import rdm
from ais.workflows.align import align, map_embedding, read_stimulus_set, stimulus_heatmap
from helpers.sets import add_backbones

COUNT, PEOPLE = 14, 3

runner = CliRunner()


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one colour with a square of another, and people who see colours."""
    rng = np.random.default_rng(5)
    (tmp_path / "stimuli").mkdir()
    colours = rng.integers(0, 255, (COUNT, 3))
    for n, colour in enumerate(colours):
        pixels = np.tile(colour, (40, 48, 1)).astype(np.uint8)
        pixels[8:24, 8 + n : 24 + n] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(tmp_path / "stimuli" / f"{n:02}.png")
    people = [squareform(pdist(colours + rng.normal(0, 60, colours.shape))) for _ in range(PEOPLE)]
    np.save(tmp_path / "people.npy", np.array(people))
    return tmp_path / "stimuli"


@pytest.fixture
def people(folder: Path) -> Path:
    return folder.parent / "people.npy"


@pytest.fixture
def backbone() -> FrozenBackbone:
    return load_backbone("little1", view="resize")


def naive(rows: np.ndarray, rdms: np.ndarray) -> float:
    upper = np.triu_indices(len(rows), 1)
    return float(np.mean([spearmanr(pdist(rows, "correlation"), person[upper]).statistic for person in rdms]))


def test_the_report_is_what_scipy_says(folder: Path, people: Path, backbone: FrozenBackbone) -> None:
    stimuli = read_stimulus_set(folder, people)
    report = align(stimuli, backbone, splits=4)
    rdms = np.load(people)
    rows = embed(stimuli.files, backbone).embedding.double().numpy()
    assert report.rdm_correlation == pytest.approx(naive(rows, rdms), abs=1e-12)
    assert report.rdm_correlation_with_mean == pytest.approx(naive(rows, rdms.mean(0)[None]), abs=1e-12)
    for c in range(12):
        without = naive(np.delete(rows, c, axis=1), rdms)
        assert report.importance[c] == pytest.approx(report.rdm_correlation - without, abs=1e-9)
    assert report.image_importance.shape == (COUNT, 12)
    assert report.ceiling == rdm.noise_ceiling(rdms)
    assert report.selection is not None
    assert len(report.selection.kept) == 4
    json.dumps(report.to_dict(), allow_nan=False)


def test_averaged_it_is_the_published_one(folder: Path, people: Path, backbone: FrozenBackbone) -> None:
    report = align(read_stimulus_set(folder, people, average=True), backbone, splits=0)
    each = align(read_stimulus_set(folder, people), backbone, splits=0)
    assert (report.people, report.n_averaged, report.ceiling, report.selection) == (1, PEOPLE, None, None)
    assert report.rdm_correlation == report.rdm_correlation_with_mean == each.rdm_correlation_with_mean


def test_the_table_gives_the_order(folder: Path, people: Path) -> None:
    names = [f"{n:02}.png" for n in reversed(range(COUNT))]
    (folder / "metadata.csv").write_text("file_name\n" + "\n".join(names))
    assert [file.name for file in read_stimulus_set(folder, people).files] == names
    (folder / "metadata.csv").write_text("file_name\n../people.npy\nnowhere.png\n")
    with pytest.raises(DataError, match=r"(?s)line 2: .*lies outside.*line 3: there is no file"):
        read_stimulus_set(folder, people)
    (folder / "metadata.csv").write_text("mood\na\n")
    with pytest.raises(DataError, match="has no column 'file_name'"):
        read_stimulus_set(folder, people)


def test_too_little_to_compare(folder: Path, people: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        read_stimulus_set(tmp_path / "nowhere", people)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds 0 pictures"):
        read_stimulus_set(tmp_path / "empty", people)
    (folder / "13.png").unlink()
    with pytest.raises(DataError, match=r"people\.npy.*13"):
        read_stimulus_set(folder, people)


def test_a_layer_whose_maps_are_mixed_is_refused(folder: Path, people: Path) -> None:
    with pytest.raises(AISError, match=r"The maps of stem\.0 in little1 are mixed by what comes after"):
        align(read_stimulus_set(folder, people), load_backbone("little1", "stem.0", view="resize"), splits=0)


def test_a_heatmap_is_the_importance_weighted_sum(folder: Path, backbone: FrozenBackbone) -> None:
    weights = np.linspace(-1, 1, 12)
    one = stimulus_heatmap(folder / "00.png", backbone, weights)
    with torch.no_grad():
        maps = backbone(backbone.preprocessing(one.image)[None]).maps[0].relu().double().numpy()
    grid = np.tensordot(weights, maps, 1)
    np.testing.assert_allclose(one.grid, grid / np.abs(grid).max(), atol=1e-5)
    assert one.saliency.shape == one.grid.shape
    assert one.saliency_correlation == pytest.approx(
        spearmanr(one.grid.ravel(), one.saliency.ravel()).statistic
    )


def test_only_the_layers_own_coordinates_count(backbone: FrozenBackbone) -> None:
    embedding = torch.arange(24.0).reshape(2, 12)
    backbone.embedding_slice = range(4, 9)
    assert map_embedding(backbone, embedding).tolist() == embedding[:, 4:9].tolist()


def test_people_who_agree_leave_a_ceiling_of_one(folder: Path, people: Path) -> None:
    one = np.load(people)[0]
    assert rdm.noise_ceiling(HumanRDMs(np.array([one, one])).rdms) == pytest.approx((1, 1))


@pytest.mark.parametrize("names", [["little1"], ["little1", "little2"]])
def test_the_command_writes_it_all(names: list[str], folder: Path, people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = [word for name in names for word in ("--backbone", name)]
    arguments = ["align", str(folder), "--rdm", str(people), "--out", str(out), "--splits", "3", *chosen]
    done = runner.invoke(cli.app, [*arguments, "--json"])
    documents = json.loads(done.stdout)
    assert [document["backbone"] for document in documents] == names
    assert sorted(file.name for file in out.iterdir()) == names  # one layout for one and for many
    for document, place in zip(documents, [out / name for name in names], strict=True):
        assert document["files"] == [str(place / Path(file).name) for file in document["files"]]
        written = {
            "report.json",
            "alignment.safetensors",
            "pruning.png",
            "rdms.png",
            "importance.png",
            "saliency.png",
        }
        assert {file.name for file in place.iterdir() if file.is_file()} == written
        for name in written:
            if name.endswith(".png"):
                Image.open(place / name).load()
        saliency = document["saliency"]
        assert set(saliency["pictures"]) == {f"{n:02}.png" for n in range(COUNT)}
        assert saliency["mean"] == pytest.approx(np.mean(list(saliency["pictures"].values())), abs=1e-4)
        assert saliency["low"] < saliency["mean"] < saliency["high"]
        scores = read_map_importance(place / "alignment.safetensors")
        assert (scores.backbone, scores.images) == (document["backbone"], COUNT)
        assert scores.importance.max() == document["strongest"][0]["importance"]
    said = runner.invoke(cli.app, arguments).stdout
    assert f"{COUNT} pictures compared by {PEOPLE} people" in said
    assert "noise ceiling" in said
    assert "beyond chance" in said
    again = json.loads(runner.invoke(cli.app, [*arguments, "--json"]).stdout)
    assert again == documents  # by its seed


def test_without_splits_nothing_is_said_of_pruning(folder: Path, people: Path, tmp_path: Path) -> None:
    arguments = [
        "align",
        str(folder),
        "--rdm",
        str(people),
        "--out",
        str(tmp_path / "out"),
        "--backbone",
        "little1",
    ]
    done = runner.invoke(cli.app, [*arguments, "--splits", "0", "--average"])
    assert "Keeping" not in done.stdout
    assert f"by {PEOPLE} people, whose matrices were averaged" in done.stdout
    assert "no noise ceiling" in done.stdout
    assert not (tmp_path / "out" / "little1" / "pruning.png").exists()
    with pytest.raises(AISError, match="One split says nothing"):
        runner.invoke(cli.app, [*arguments, "--splits", "1"], catch_exceptions=False)


def test_figures_show_what_they_are_given(folder: Path, backbone: FrozenBackbone) -> None:
    flat = rsa.importances(np.zeros(5))
    some = rsa.importances(np.array([1.0, -1, 0, 0, 0]))
    assert Image.open(io.BytesIO(flat)).size == Image.open(io.BytesIO(some)).size
    assert flat != some
    matrix = squareform(np.arange(6.0))
    assert rsa.rdm_pair(matrix, matrix, ("a", "b")) != rsa.rdm_pair(matrix, 6 - matrix, ("a", "b"))
    one = stimulus_heatmap(folder / "00.png", backbone, np.ones(12))
    upsampled = (one.placement.upsample(values.astype(np.float32)) for values in (one.grid, one.saliency))
    row = rsa.HeatmapRow("a", one.image, *upsampled)
    tall = Image.open(io.BytesIO(rsa.heatmap_sheet([row, replace(row, caption="b")]))).height
    assert tall > Image.open(io.BytesIO(rsa.heatmap_sheet([row]))).height
