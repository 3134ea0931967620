from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from ais.attribution.explain import score
from ais.backbones import embeddings
from ais.backbones.loading import load_backbone
from ais.data.columns import RatingColumns
from ais.data.ratings import RatedSet, read_ratings
from ais.errors import DataError
from ais.heads.config import BACKBONE, Target
from ais.heads.loading import load_head
from ais.images.reading import read_image
from ais.metrics import regression
from ais.training import cross_validation
from ais.training.mlp import Variants, fit_variants
from ais.training.plan import Plan
from ais.training.recipe import Recipe
from ais.training.strategies import FineTuneConfig
from ais.workflows.train import train_head
from helpers.networks import make_backbone
from helpers.sets import add_backbones, predict

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
    return read_ratings(tmp_path, RatingColumns("rating_mean", group="theme"))


def test_train_head_from_a_folder_to_a_head(rated: RatedSet, tmp_path: Path) -> None:
    backbone = make_backbone()
    plan = Plan(variants=3, recipe=replace(SMALL, batch=16))
    calls: list[tuple[str, int, int]] = []
    head, report = train_head(
        rated,
        backbone,
        name="bright",
        target=TARGET,
        plan=plan,
        progress=lambda *call: calls.append(call),
    )
    config = head.config
    assert report.metrics["plcc"] > 0.9
    assert (config.dim, config.channels, config.hidden, config.variants) == (12, 12, 32, 3)
    assert (config.backbone, config.layer, config.view, config.size) == ("tiny", "inner", "resize", 32)
    assert Plan.of(config) == plan
    assert config.recipe["target"] == "rating_mean"
    assert "tuning" not in config.recipe
    counts = {"pictures": 60, "groups": 20, "folds": 10, "grouped": True}
    assert config.metrics == report.metrics
    assert config.metrics.items() >= counts.items()
    assert all(head.was_trained_on([sha256(file.read_bytes()).hexdigest() for file in rated.files]))
    assert head.was_trained_on([sha256(b"another picture").hexdigest()]) == [False]
    assert ("pictures", 60, 60) in calls
    assert calls[-1] == ("folds", 10, 10)
    assert report.out_of_fold.scores.shape == (60, 3)
    error = np.abs(report.out_of_fold.scores.mean(1) - rated.ratings)
    half = config.interval.factor * np.sqrt(config.interval.error**2 + report.out_of_fold.scores.var(1))
    assert 0.9 <= (error <= half + 1e-9).mean() <= 0.95
    np.testing.assert_allclose(
        head.rating_quantiles, np.quantile(rated.ratings, np.linspace(0, 1, 101)), rtol=1e-6
    )
    assert head.mean_residual.shape == (12,)
    assert head.mean_residual.abs().max() > 0
    seen_by_it = torch.stack([backbone(read_image(file)).embedding[0] for file in rated.files])
    torch.testing.assert_close(head.typical, seen_by_it.mean(0).float(), atol=1e-5, rtol=1e-4)
    assert config.backbone_sha256 == backbone.sha256

    head.save(tmp_path / "head")
    loaded = load_head(tmp_path / "head")
    assert loaded.config.metrics == json.loads(json.dumps(config.metrics))
    seen = backbone.seen
    again, _ = train_head(rated, backbone, name="bright", target=TARGET, plan=plan)
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

    monkeypatch.setattr(cross_validation, "fit_variants", recording)
    backbone = make_backbone()
    head, report = train_head(
        rated, backbone, name="bright", target=TARGET, plan=Plan(variants=2, recipe=replace(SMALL, epochs=4))
    )
    assert len(fits) == 11
    embedded = embeddings.embed(rated.files, backbone)
    assert embedded.delta is not None
    total = torch.zeros(12)
    for i, rating in enumerate(rated.ratings):
        ablated = embedded.embedding[i].repeat(13, 1)
        ablated[torch.arange(12), torch.arange(12)] += embedded.delta[i]
        scores = predict(fits[report.out_of_fold.folds[i]], ablated).mean(1)
        total += (scores[:12] - rating).abs() - (scores[12] - rating).abs()
        assert scores[12].item() == pytest.approx(report.out_of_fold.scores[i].mean(), abs=1e-4)
    torch.testing.assert_close(head.mean_residual, total / len(rated), atol=1e-4, rtol=1e-3)


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


def test_maps_that_mix_carry_a_head_without_alignment(rated: RatedSet) -> None:
    backbone = make_backbone("stem.0")
    plan = Plan(variants=2, folds=3, recipe=SMALL)
    head, report = train_head(rated, backbone, name="x", target=TARGET, plan=plan)
    assert head.config.channels == 8
    assert not head.mean_residual.any()
    assert report.metrics["plcc"] > 0.5


def divided(rated: RatedSet, test: list[str]) -> RatedSet:
    """These groups are for testing; of the others, some stand in for a validation set."""
    assert rated.groups is not None
    split = [
        "test" if name in test else ["train", "validation"][i % 2] for i, name in enumerate(rated.groups)
    ]
    return replace(rated, split=split)


def test_test_pictures_are_kept_out_and_scored_once(
    rated: RatedSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fitted: list[set[str]] = []

    def recording(embedding: object, ratings: object, groups: list[str], **options: object) -> Variants:
        fitted.append(set(groups))
        return fit_variants(embedding, ratings, groups, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_validation, "fit_variants", recording)
    kept_out = ["0", "7", "8", "19"]
    backbone = make_backbone()
    plan = Plan(variants=2, folds=4, recipe=SMALL)
    data = divided(rated, kept_out)
    head, report = train_head(data, backbone, name="x", target=TARGET, plan=plan)
    assert len(fitted) == 5
    assert not any(groups & set(kept_out) for groups in fitted)
    assert len(set().union(*fitted)) == 16
    assert report.metrics.items() >= {"pictures": 48, "groups": 16}.items()
    assert len(report.ratings) == 48

    test = np.flatnonzero([name in kept_out for name in rated.groups or []])
    embedding = torch.cat(
        [backbone(backbone.preprocessing(read_image(rated.files[i]))[None]).embedding for i in test]
    )
    groups = [(rated.groups or [])[i] for i in test]
    expected = regression.metrics(head.score(embedding).numpy(), rated.ratings[test], groups)
    assert report.metrics["test"] == pytest.approx(expected | {"pictures": 12}, abs=1e-5)
    assert head.config.metrics["test"] == report.metrics["test"]
    seen = np.array(head.was_trained_on(embeddings.embed(rated.files, backbone).hashes))
    assert np.flatnonzero(~seen).tolist() == test.tolist()
    assert head.config.trained_on == 48
    assert not caplog.records

    without, _ = train_head(
        data.rows(np.array(data.split) != "test"), backbone, name="x", target=TARGET, plan=plan
    )
    for name, value in head.state_dict().items():
        assert torch.equal(value, without.state_dict()[name])


def test_no_test_pictures_are_no_test(rated: RatedSet) -> None:
    plan = Plan(variants=1, folds=2, recipe=SMALL)
    _, report = train_head(divided(rated, []), make_backbone(), name="x", target=TARGET, plan=plan)
    assert "test" not in report.metrics


def test_a_test_set_of_one_group_is_refused_before_the_work(rated: RatedSet) -> None:
    backbone = make_backbone()
    with pytest.raises(DataError, match="at least two groups as test"):
        train_head(divided(rated, ["3"]), backbone, name="x", target=TARGET)
    assert not backbone.seen


def test_twins_and_torn_groups_are_warned_of(rated: RatedSet, caplog: pytest.LogCaptureFixture) -> None:
    """The same picture in two groups, in both parts of a split, or a group in both: a test that flatters."""
    plan = Plan(variants=1, folds=2, recipe=replace(SMALL, epochs=2))

    def warnings(data: RatedSet) -> str:
        caplog.clear()
        train_head(data, make_backbone(), name="x", target=TARGET, plan=plan)
        return "\n".join(record.getMessage() for record in caplog.records if "chance" not in record.msg)

    assert warnings(rated) == ""
    again = [rated.files[0], *rated.files[1:30], rated.files[0], rated.files[1], *rated.files[32:]]
    twins = replace(rated, files=again)
    assert "2 pictures stand in the set twice, in different groups" in warnings(twins)
    assert "twice" not in warnings(replace(rated, files=[rated.files[1], *rated.files[1:]]))  # in one group
    assert "2 test pictures are among those learned from" in warnings(divided(twins, ["0", "5"]))
    torn = divided(rated, ["0", "5"])
    torn = replace(torn, split=["train", *(torn.split or [])[1:]])
    assert "1 groups have pictures for testing and pictures to learn from" in warnings(torn)


def test_a_tuned_head_comes_with_its_backbone(
    rated: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_backbones(tmp_path, monkeypatch)
    plan = Plan(
        variants=2, folds=2, recipe=SMALL, strategy="last-k", tuning=FineTuneConfig(epochs=1, last_k=1)
    )
    backbone = load_backbone("little1", view="resize")
    head, report = train_head(rated, backbone, name="x", target=TARGET, plan=plan)
    assert report.tuned is not None
    assert head.config.tuned_sha256 == sha256(save(report.tuned)).hexdigest()
    assert head.config.backbone_label == "little1, tuned"
    assert Plan.of(head.config) == plan
    assert report.curves.shape == (2, 1, 2)
    head.save(tmp_path / "x", extra={BACKBONE: save(report.tuned)})
    loaded = load_head(tmp_path / "x")
    own = load_backbone("little1", view="resize", weights=tmp_path / "x" / BACKBONE)
    picture = own.preprocessing(read_image(rated.files[0]))[None]
    assert score(rated.files[0], loaded).score == pytest.approx(
        head.score(own(picture).embedding).item(), abs=1e-5
    )
    assert abs(head.score(backbone(picture).embedding) - head.score(own(picture).embedding)) > 1e-5
    assert loaded.config.backbone_sha256 == own.sha256 != backbone.sha256
    seen_by_it = torch.stack([own(read_image(file)).embedding[0] for file in rated.files])
    torch.testing.assert_close(loaded.typical, seen_by_it.mean(0), atol=1e-5, rtol=1e-4)
