from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ais import training
from ais.datasets import RatedSet, read_ratings
from ais.errors import DataError
from ais.fitting import Recipe, Variants, fit_variants
from ais.heads import Target, load_head
from ais.training import train_head
from test_embeddings import Counting, make_backbone
from test_fitting import predict

TARGET = Target("brightness", 0, 10, "made for a test")
SMALL = Recipe(components=16, hidden=32, epochs=40)


@pytest.fixture
def rated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RatedSet:
    """Pictures whose rating is how bright they are."""
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    rows = ["file_name,rating_mean,theme"]
    for i in range(60):
        level = rng.uniform(20, 230)
        pixels = np.clip(level + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{level / 25.5},{i // 3}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    return read_ratings(tmp_path, "rating_mean", group="theme")


def test_train_head_from_a_folder_to_a_head(rated: RatedSet, tmp_path: Path) -> None:
    backbone = make_backbone()
    recipe = replace(SMALL, batch=16)
    calls: list[tuple[str, int, int]] = []
    head, report = train_head(
        rated,
        backbone,
        "whole",
        name="bright",
        target=TARGET,
        variants=3,
        recipe=recipe,
        progress=lambda *call: calls.append(call),
    )
    config = head.config
    assert report.metrics["plcc"] > 0.9
    assert (config.dim, config.channels, config.hidden, config.variants) == (12, 12, 32, 3)
    assert (config.backbone, config.layer, config.view, config.size) == ("tiny", "inner", "whole", 32)
    assert config.recipe == asdict(recipe) | {"seed": 0, "target": "rating_mean"}
    assert config.metrics == report.metrics | {"pictures": 60, "groups": 20, "folds": 10, "grouped": True}
    assert ("pictures", 60, 60) in calls
    assert calls[-1] == ("fits", 11, 11)
    assert report.scores.shape == (60, 3)
    error = np.abs(report.scores.mean(1) - rated.ratings)
    half = config.interval.factor * np.sqrt(config.interval.error**2 + report.scores.var(1))
    assert 0.9 <= (error <= half + 1e-9).mean() <= 0.95
    np.testing.assert_allclose(
        head.rating_quantiles, np.quantile(rated.ratings, np.linspace(0, 1, 101)), rtol=1e-6
    )
    assert head.alignment.shape == (12,)
    assert head.alignment.abs().max() > 0

    head.save(tmp_path / "head")
    loaded = load_head(tmp_path / "head")
    assert loaded.config.metrics == json.loads(json.dumps(config.metrics))
    seen = backbone.seen
    again, _ = train_head(rated, backbone, "whole", name="bright", target=TARGET, variants=3, recipe=recipe)
    assert backbone.seen == seen
    again.save(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "head" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_alignment_is_the_mean_residual_of_heads_that_never_saw_the_picture(
    rated: RatedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle: ablate map by map, picture by picture, with the fold's own variants."""
    fits: list[Variants] = []

    def recording(*arguments: object, **options: object) -> Variants:
        fits.append(fit_variants(*arguments, **options))  # type: ignore[arg-type]
        return fits[-1]

    monkeypatch.setattr(training, "fit_variants", recording)
    backbone = make_backbone()
    head, report = train_head(
        rated, backbone, name="bright", target=TARGET, variants=2, recipe=replace(SMALL, epochs=4)
    )
    assert len(fits) == 11
    embedded = training.embed(rated.files, backbone, "whole")
    assert embedded.delta is not None
    total = torch.zeros(12)
    for i, rating in enumerate(rated.ratings):
        ablated = embedded.embedding[i].repeat(13, 1)
        ablated[torch.arange(12), torch.arange(12)] += embedded.delta[i]
        scores = predict(fits[report.folds[i]], ablated).mean(1)
        total += (scores[:12] - rating).abs() - (scores[12] - rating).abs()
        assert scores[12].item() == pytest.approx(report.scores[i].mean(), abs=1e-4)
    torch.testing.assert_close(head.alignment, total / len(rated), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: replace(d, files=d.files[:19], ratings=d.ratings[:19], groups=d.groups[:19]),
            "at least 20 pictures",
        ),
        (lambda d: replace(d, groups=["a", "b", "c"] * 20), "at least 4 groups"),
        (lambda d: replace(d, ratings=d.ratings + 5), "off the scale of 0 to 10"),
    ],
)
def test_data_that_cannot_carry_a_head(rated: RatedSet, change: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        train_head(change(rated), make_backbone(), name="x", target=TARGET)  # type: ignore[operator]


def test_a_layer_whose_maps_mix_is_refused(rated: RatedSet) -> None:
    backbone: Counting = make_backbone("stem.0")
    with pytest.raises(DataError, match=r"stem\.0"):
        train_head(rated, backbone, name="x", target=TARGET)
    assert backbone.seen == 0
