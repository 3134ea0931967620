"""The stimuli that are drawn, and what the Similarity tab computes without a browser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ais.backbones.loading import load_backbone
from ais.data.rdms import HumanRDMs
from ais.demo import shapes
from ais.demo.tabs import similarity
from ais.demo.tabs.similarity import Stimuli, StimuliRSA
from ais.errors import AISError, DataError
from ais.rsa import importance
from ais.rsa import rdm as rsa_rdm
from ais.workflows import align


def compared(stimuli: Stimuli, backbone: str = similarity.DEFAULT) -> StimuliRSA:
    *said, last = similarity.compare(stimuli, backbone)
    assert all(isinstance(step, str) for step in said)
    assert isinstance(last, StimuliRSA)
    return last


@pytest.fixture(scope="module")
def drawn() -> StimuliRSA:
    return compared(similarity.drawn())


def test_the_drawings_are_different_and_every_property_is_used_about_equally() -> None:
    pictures = shapes.drawings()
    assert len(set(pictures)) == shapes.COUNT
    for values in zip(*pictures, strict=True):
        counts = Counter(values).values()
        assert max(counts) <= 1.5 * min(counts)


def test_dissimilarities_count_the_properties_that_differ() -> None:
    pictures = shapes.drawings()
    matrix = shapes.differences(pictures)
    for i, one in enumerate(pictures):
        for j, other in enumerate(pictures):
            assert matrix[i, j] == sum(a != b for a, b in zip(one, other, strict=True))


def test_drawings_lie_whole_inside_the_picture_and_are_the_same_every_time() -> None:
    for picture in shapes.drawings():
        pixels = np.asarray(shapes.draw(picture)).astype(int)
        np.testing.assert_array_equal(pixels, np.asarray(shapes.draw(picture)))
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert np.ptp(border, axis=0).max() == 0
        assert np.ptp(pixels, axis=(0, 1)).max() > 60


def test_the_page_computes_what_the_command_computes(
    drawn: StimuliRSA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIS_CACHE", str(tmp_path))
    files, _, judgments = shapes.stimuli()
    report = align.align(
        align.StimulusSet(files, judgments), load_backbone(similarity.DEFAULT, view="resize"), splits=0
    )
    np.testing.assert_allclose(drawn.model_rdm, report.model_rdm, atol=1e-5)
    np.testing.assert_array_equal(drawn.human_rdm, report.human_rdm)
    assert drawn.rdm_correlation == pytest.approx(report.rdm_correlation, abs=1e-3)
    assert drawn.ceiling is report.ceiling is None
    np.testing.assert_allclose(drawn.importance, report.importance, atol=1e-2)


def test_nothing_of_a_visitors_pictures_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "cache"))
    files, names, _ = shapes.stimuli()
    own = HumanRDMs(np.stack([shapes.differences(shapes.drawings())[:4, :4]] * 2))
    assert compared(Stimuli(files[:4], names[:4], own)).ceiling is not None
    assert not (tmp_path / "cache").exists()


def test_the_shares_of_a_pair_sum_to_its_correlation(drawn: StimuliRSA) -> None:
    rng = np.random.default_rng(0)
    for rows in (drawn.embedding, rng.standard_normal((5, 40))):
        rdm = rsa_rdm.rdm(rows)
        for i, j in ((0, 1), (3, 2)):
            shares = importance.pair_importance(rows, i, j)
            assert shares.shape == (rows.shape[1],)
            assert shares.sum() == pytest.approx(1 - rdm[i, j], abs=1e-12)
            assert shares.sum() == pytest.approx(np.corrcoef(rows[i], rows[j])[0, 1], abs=1e-12)
            z = [(row - row.mean()) / (row.std() * len(row) ** 0.5) for row in (rows[i], rows[j])]
            np.testing.assert_allclose(shares, [a * b for a, b in zip(*z, strict=True)], atol=1e-14)


def test_alike_counts_the_other_pairs_that_are_less_alike() -> None:
    rdm = np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]], float)
    assert similarity.share_less_alike(rdm, 0, 1) == 1
    assert similarity.share_less_alike(rdm, 2, 0) == 0.25


def test_pictures_that_would_hide_each_other_are_moved_apart() -> None:
    rng = np.random.default_rng(0)
    places = np.concatenate([np.zeros((12, 2)), rng.uniform(-1, 1, (12, 2))])
    moved = similarity.spread(places)
    distance = np.linalg.norm(moved[:, None] - moved, axis=2) + np.eye(24)
    assert distance.min() > 0.09
    assert moved.min() >= 0
    assert moved.max() <= 1
    corners = np.array([[-1, -1], [1, 1], [-1, 1]], float)
    np.testing.assert_allclose(similarity.spread(corners), (corners + 1) / 2, atol=2e-4)


def test_both_geometries_lie_the_same_way_round(drawn: StimuliRSA) -> None:
    mirrored = StimuliRSA(**{**drawn.__dict__, "human_rdm": drawn.model_rdm})
    network, people = mirrored.places()
    np.testing.assert_allclose(network, people, atol=1e-9)


def test_every_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    files, _, judgments = shapes.stimuli()
    for name in ("x1", "x2"):
        (tmp_path / f"{name}.png").write_text("no picture")
    bad = [files[0], tmp_path / "x1.png", tmp_path / "x2.png"]
    with pytest.raises(DataError) as raised:
        compared(Stimuli(bad, ["a.png", "b<i>.png", "c.png"], HumanRDMs(judgments.rdms[:, :3, :3])))
    assert '"b<i>.png" is not a picture' in str(raised.value)
    assert '"c.png" is not a picture' in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_stimuli_that_cannot_be_compared_gives_a_sentence(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(picture)
    matrix = tmp_path / "m.npy"
    np.save(matrix, 1 - np.eye(4))
    for count, given, words in (
        (2, matrix, "These are 2 pictures. Choose from 3 to 60."),
        (61, matrix, "These are 61 pictures. Choose from 3 to 60."),
        (4, None, "There is no matrix."),
        (5, matrix, "my<b>.npy is about 4 pictures, and there are 5."),
    ):
        with pytest.raises(DataError) as raised:
            similarity.uploaded_stimuli([(picture, "a.png")] * count, given and (given, "my<b>.npy"))
        assert words in str(raised.value)
        assert str(tmp_path) not in str(raised.value)
    with pytest.raises(AISError, match="There is no such network here"):
        list(similarity.compare(similarity.drawn(), "../../etc"))


def test_rows_of_the_matrix_are_in_the_order_of_the_names(tmp_path: Path) -> None:
    names = ["b.png", "a10.png", "a2.png"]
    rdm = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], float)
    np.save(tmp_path / "m.npy", rdm)
    own = similarity.uploaded_stimuli([(tmp_path / n, n) for n in names], (tmp_path / "m.npy", "m.npy"))
    assert own.names == [file.name for file in own.files] == ["a10.png", "a2.png", "b.png"]
    np.testing.assert_array_equal(own.judgments.mean, rdm)
