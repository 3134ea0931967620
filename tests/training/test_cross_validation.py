"""Cross-validation: no fold has seen what it judges, the cache tells plans apart, and every strategy is honest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone, random_backbone
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_folds
from ais.errors import DataError
from ais.images.reading import read_image
from ais.training import cross_validation, finetuning
from ais.training.cross_validation import (
    EmbeddedRatings,
    OutOfFold,
    cross_validate,
    embed_ratings,
    fit,
    fit_head,
    fold_heads,
)
from ais.training.finetuning import validation_mask
from ais.training.mlp import fit_variants
from ais.training.plan import FitContext, Plan
from ais.training.strategies import STRATEGIES, FineTuneConfig
from ais.workflows import find_rate
from helpers.heads import make_head
from helpers.sets import PLAN, SMALL, TUNED, add_backbones, make_set, predict


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> RatedSet:
    return make_set(tmp_path_factory.mktemp("rated"))


@pytest.fixture
def backbone() -> FrozenBackbone:
    return load_backbone("little1", view="resize")


@pytest.fixture
def pictures(rated: RatedSet, backbone: FrozenBackbone) -> EmbeddedRatings:
    return embed_ratings(rated, backbone)


def record(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    """What one of the module's functions is called with from now on, and what it gives."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    original = getattr(cross_validation, name)

    def recording(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        calls.append((arguments, options, result))
        return result

    monkeypatch.setattr(cross_validation, name, recording)
    return calls


def validated(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, plan: Plan = PLAN, **options: Any
) -> OutOfFold:
    return cross_validate(pictures, FitContext(backbone, plan, **options))


def fold_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "folds").glob("*"))


def test_no_fold_has_seen_what_it_judges(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = record(monkeypatch, "fit_variants")
    found = validated(pictures, backbone)
    assert len(fits) == 3
    for fold, ((embedding, ratings, groups), options, _) in enumerate(fits):
        outside = found.folds == fold
        assert not set(groups) & {pictures.groups[i] for i in np.flatnonzero(outside)}
        assert torch.equal(embedding, pictures.embedding[torch.from_numpy(~outside)])
        np.testing.assert_array_equal(ratings, pictures.data.ratings[~outside])
        assert options["seed"] == PLAN.seed + 1 + fold
    assert np.bincount(found.folds).tolist() == [12, 12, 12]


def test_scores_equal_refitting_by_hand(pictures: EmbeddedRatings, backbone: FrozenBackbone) -> None:
    found = validated(pictures, backbone)
    folds = grouped_folds(pictures.groups, 3, PLAN.seed)
    np.testing.assert_array_equal(found.folds, folds)
    for fold in range(3):
        rows = np.flatnonzero(folds != fold)
        fitted = fit_variants(
            pictures.embedding[torch.from_numpy(rows)],
            pictures.data.ratings[rows],
            [pictures.groups[i] for i in rows],
            variants=2,
            seed=1 + fold,
            recipe=SMALL,
        )
        for i in np.flatnonzero(folds == fold):
            seen = backbone(backbone.preprocessing(read_image(pictures.data.files[i]))[None])
            np.testing.assert_allclose(found.scores[i], predict(fitted, seen.embedding)[0], atol=1e-4)
    assert found.alignment.shape == (12,)
    assert np.abs(found.alignment).max() > 0


def test_more_folds_than_groups_is_a_fold_a_group(
    pictures: EmbeddedRatings, backbone: FrozenBackbone
) -> None:
    few = pictures.rows(np.arange(10))
    assert np.bincount(validated(few, backbone, replace(PLAN, folds=10)).folds).tolist() == [2] * 5


def test_second_call_fits_nothing(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int, int]] = []
    first = validated(pictures, backbone, progress=lambda *call: calls.append(call))
    assert calls == [("folds", done, 3) for done in range(4)]
    assert len(fold_files(tmp_path)) == 3
    fits = record(monkeypatch, "fit")
    second = validated(pictures, backbone)
    assert not fits
    for name in ("scores", "folds", "alignment"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-9], lambda data: b"", bytes.upper],
    ids=["flipped bit", "cut short", "empty", "garbled"],
)
def test_a_damaged_fold_is_computed_again(
    damage: Callable[[bytes], bytes],
    pictures: EmbeddedRatings,
    backbone: FrozenBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = validated(pictures, backbone)
    victim = fold_files(tmp_path)[1]
    whole = victim.read_bytes()
    victim.write_bytes(damage(whole))
    fits = record(monkeypatch, "fit")
    np.testing.assert_array_equal(validated(pictures, backbone).scores, first.scores)
    assert len(fits) == 1
    assert victim.read_bytes() == whole


def changed(pictures: EmbeddedRatings, **columns: Any) -> EmbeddedRatings:
    return replace(pictures, data=replace(pictures.data, **columns))


def test_what_a_fold_depends_on_is_in_its_key(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures.data
    assert data.sd is not None
    one_more = data.ratings + np.eye(36)[0]
    other = FrozenBackbone(
        copy.deepcopy(backbone.network), "little1", "inner", backbone.preprocessing, range(12)
    )
    other.network.inner.weight[0] += 1  # type: ignore[index, operator, union-attr]
    weighted = replace(PLAN, weighted=True)
    variations: list[tuple[EmbeddedRatings, FrozenBackbone, Plan]] = [
        (changed(pictures, ratings=one_more), backbone, PLAN),
        (replace(pictures, groups=[name[::-1] for name in pictures.groups]), backbone, PLAN),
        (pictures, backbone, replace(PLAN, seed=3)),
        (pictures, backbone, replace(PLAN, folds=4)),
        (pictures, backbone, replace(PLAN, variants=1)),
        (pictures, backbone, replace(PLAN, recipe=replace(SMALL, epochs=5))),
        (embed_ratings(data, other), other, PLAN),
        (pictures, backbone.with_preprocessing(size=64), PLAN),
        (pictures, backbone.with_preprocessing(view="crop"), PLAN),
        (pictures, backbone, weighted),
        (changed(pictures, sd=data.sd + np.eye(36)[0]), backbone, weighted),
    ]
    validated(pictures, backbone)
    for each, own, plan in variations:
        fits = record(monkeypatch, "fit")
        validated(each, own, plan)
        assert len(fits) == plan.folds
    fits = record(monkeypatch, "fit")
    validated(changed(pictures, sd=data.sd + 1), backbone)  # without weights the deviations change nothing
    assert not fits


def test_without_the_cache_nothing_is_written(
    rated: RatedSet, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    pictures = embed_ratings(rated, backbone, cache=False)
    alone = validated(pictures, backbone, cache=False)
    assert not (tmp_path / "cache").exists()
    np.testing.assert_array_equal(alone.scores, validated(pictures, backbone).scores)


def test_weights_are_those_of_a_random_effects_model(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = record(monkeypatch, "fit_variants")
    found = validated(pictures, backbone, replace(PLAN, weighted=True))
    data = pictures.data
    assert data.sd is not None
    assert data.n is not None
    for fold, (_, options, _) in enumerate(fits):
        rows = found.folds != fold
        error = data.sd[rows] ** 2 / data.n[rows]
        between = np.var(data.ratings[rows]) - error.mean()
        assert between > 0
        np.testing.assert_allclose(options["sample_weight"], 1 / (between + error))
    assert np.abs(found.scores - validated(pictures, backbone).scores).max() > 1e-3


def test_weights_stay_finite_where_raters_disagree_more_than_pictures_differ(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = record(monkeypatch, "fit_variants")
    vague = changed(pictures, sd=np.where(np.arange(36) % 3 == 0, 0.0, 99.0))
    validated(vague, backbone, replace(PLAN, weighted=True))
    weights = [options["sample_weight"] for _, options, _ in fits]
    assert all(0 < each.min() < each.max() < np.inf for each in weights)


def test_weights_need_to_know_how_sure_the_ratings_are(
    pictures: EmbeddedRatings, backbone: FrozenBackbone
) -> None:
    with pytest.raises(DataError, match=r"needs columns with the ratings' standard deviation and number"):
        validated(changed(pictures, sd=None), backbone, replace(PLAN, weighted=True))


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        PLAN,
        replace(PLAN, weighted=True, seed=7),
        TUNED,
        replace(TUNED, strategy="scratch", tuning=FineTuneConfig(augment=False)),
    ],
)
def test_a_plan_survives_its_config(plan: Plan) -> None:
    config = replace(make_head().config, recipe=json.loads(json.dumps(plan.to_dict() | {"command": "ais"})))
    assert Plan.of(config) == plan
    assert ("tuning" in config.recipe) == (plan.strategy != "head")


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"variants": 3},
        {"recipe": {"layers": 9}},
        {"recipe": "many"},
        PLAN.to_dict() | {"strategy": "magic"},
        PLAN.to_dict() | {"strategy": ["head"]},
    ],
)
def test_a_config_that_does_not_say_its_plan(recipe: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="'test-head' does not say how it was trained"):
        Plan.of(replace(make_head().config, recipe=recipe))


def test_maps_that_mix_have_no_alignment(rated: RatedSet) -> None:
    backbone = load_backbone("little1", "stem.0", view="resize")
    assert backbone.embedding_slice is None
    pictures = embed_ratings(rated, backbone)
    assert pictures.delta.shape == (36, 0)
    found = validated(pictures, backbone)
    assert found.alignment.tolist() == [0] * 8
    np.testing.assert_allclose(  # the embedding is that of the other layer, and so are the scores
        found.scores,
        validated(
            embed_ratings(rated, load_backbone("little1", view="resize")),
            load_backbone("little1", view="resize"),
        ).scores,
        atol=1e-3,
    )


def test_heads_of_the_folds_give_the_scores(pictures: EmbeddedRatings, backbone: FrozenBackbone) -> None:
    found = validated(pictures, backbone)
    config = replace(
        make_head("little1", variants=2).config, trained_on=99, recipe=PLAN.to_dict(), metrics={"plcc": 1.0}
    )
    heads = fold_heads(pictures, FitContext(backbone, PLAN), config, found.folds)
    scores = [heads[fold](pictures.embedding[i : i + 1]) for i, fold in enumerate(found.folds)]
    np.testing.assert_allclose(torch.cat(scores).numpy(), found.scores, atol=1e-5)
    context = FitContext(backbone, replace(PLAN, seed=PLAN.seed + 2))
    again = fit_head(pictures.rows(np.flatnonzero(found.folds != 1)), context, config)
    assert torch.equal(again.weight1, heads[1].weight1)


def naive_scores(own: FrozenBackbone, fitted: Any, file: Path) -> Tensor:
    """By the whole network, without maps and caches: (K,)."""
    with torch.no_grad():
        embedding = own.network(own.preprocessing(read_image(file))[None])
    return predict(fitted, embedding)[0]


def test_every_fold_tunes_a_backbone_of_its_own(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(backbone.network.state_dict())
    fits = record(monkeypatch, "fit")
    stages: list[str] = []
    found = validated(pictures, backbone, TUNED, progress=lambda stage, *_: stages.append(stage))
    assert {"folds", "steps"} <= set(stages)
    assert len(fits) == 2
    states = []
    for fold, ((part, *_), _, (fitted, own, state)) in enumerate(fits):
        outside = np.flatnonzero(found.folds == fold)
        assert not set(part.groups) & {pictures.groups[i] for i in outside}
        for i in outside:
            expected = naive_scores(own, fitted, pictures.data.files[i])
            np.testing.assert_allclose(found.scores[i], expected, atol=1e-4)
        assert own.embedding_slice == backbone.embedding_slice
        states.append(state)
    for name in ("norm.weight", "stem.0.weight"):  # neither BatchNorm nor the first blocks learn
        assert torch.equal(states[0][name], before[name])
    learned = [name for name in before if not torch.equal(states[0][name], before[name])]
    assert learned
    assert any(not torch.equal(states[0][name], states[1][name]) for name in learned)
    assert all(torch.equal(value, before[name]) for name, value in backbone.network.state_dict().items())
    assert np.abs(found.alignment).max() > 0


@pytest.mark.parametrize("strategy", ["last-k", "layerwise", "head-then-all"])
def test_tuning_starts_from_heads_that_have_not_seen_when_to_stop(
    strategy: str, pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, tunings = record(monkeypatch, "fit_variants"), record(monkeypatch, "fine_tune")
    plan = replace(TUNED, strategy=strategy, seed=5)
    _, own, state = fit(pictures, FitContext(backbone, plan))
    ((arguments, options, _),) = starts
    ((data, context, start), _, _) = tunings[0]
    assert context.backbone is backbone
    assert data.files == pictures.data.files
    groups = data.groups
    stop = validation_mask(groups, plan)
    assert 0 < stop.sum() < len(stop)
    assert arguments[2] == [name for name, held in zip(groups, stop, strict=True) if not held]
    assert start is starts[0][2]
    assert options["seed"] == context.plan.seed == 5
    assert state is not None
    assert all(torch.equal(value, state[name]) for name, value in own.network.state_dict().items())


def test_from_scratch_means_random_weights_and_no_start(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, tunings = record(monkeypatch, "fit_variants"), record(monkeypatch, "fine_tune")
    fit(pictures, FitContext(backbone, replace(TUNED, strategy="scratch", seed=5)))
    assert not starts
    _, context, start = tunings[0][0]
    assert context.backbone.preprocessing == backbone.preprocessing
    network = context.backbone.network
    assert start is None
    random = random_backbone("little1", 5).network.state_dict()
    assert all(torch.equal(value, random[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("strategy", ["scratch", "last-k"])
def test_tuning_keeps_the_size(
    strategy: str, rated: RatedSet, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunings = record(monkeypatch, "fine_tune")
    large = backbone.with_preprocessing(size=64)
    plan = replace(TUNED, strategy=strategy, seed=5)
    _, own, state = fit(embed_ratings(rated, large), FitContext(large, plan))
    assert state is not None
    _, context, _ = tunings[0][0]
    assert context.backbone.preprocessing == own.preprocessing == large.preprocessing
    assert own.label == "little1 at 64 px"
    assert own.with_preprocessing(size=32).preprocessing == backbone.preprocessing


def test_tuning_counts_sure_ratings_more(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners: list[Any] = []
    original = finetuning._learner

    def recording(*arguments: Any) -> Any:
        learners.append(original(*arguments))
        return learners[-1]

    monkeypatch.setattr(finetuning, "_learner", recording)
    fit(pictures, FitContext(backbone, replace(TUNED, weighted=True)))
    fit(pictures, FitContext(backbone, TUNED))
    data = pictures.data
    assert data.sd is not None
    assert data.n is not None
    error = data.sd**2 / data.n
    expected = 1 / (np.var(data.ratings) - error.mean() + error)
    np.testing.assert_allclose(learners[0].counts.numpy(), expected / expected.mean(), rtol=1e-6)
    assert learners[1].counts.unique().tolist() == [1]


def test_looking_for_a_rate_begins_as_the_training_does(
    pictures: EmbeddedRatings, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[tuple[Any, ...]] = []

    def recording(*arguments: Any) -> Any:
        trials.append(arguments)
        return finetuning.range_test(*arguments)

    monkeypatch.setattr(find_rate, "range_test", recording)
    tunings = record(monkeypatch, "fine_tune")
    calls: list[tuple[str, int, int]] = []
    context = FitContext(backbone, TUNED, lambda *call: calls.append(call))
    curve = find_rate.find_rate(pictures.data, context)
    fit(pictures, context)
    assert (curve.suggested is None) == bool(curve.reason)
    calls = [call for call in calls if call[0] == "steps"]
    assert len(curve.losses) == len(curve.rates) <= len(calls)
    ((data, own, start),), ((trained, same, begin), _, _) = trials, tunings[0]
    assert (data.files, data.groups) == (trained.files, trained.groups)
    np.testing.assert_array_equal(data.ratings, trained.ratings)
    assert own == same
    assert torch.equal(start.weight1, begin.weight1)


def test_pictures_without_groups_are_on_their_own(
    rated: RatedSet, backbone: FrozenBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the folder's place does not matter: moved, it has the same folds, from the cache."""
    alone = replace(rated, groups=None)
    pictures = embed_ratings(alone, backbone)
    assert len(set(pictures.groups)) == 36
    first = validated(pictures, backbone)
    for file in rated.files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    moved = replace(alone, folder=tmp_path, files=[tmp_path / file.name for file in rated.files])
    fits = record(monkeypatch, "fit")
    np.testing.assert_array_equal(validated(embed_ratings(moved, backbone), backbone).scores, first.scores)
    assert not fits


def test_no_pictures_at_all_is_a_sentence(rated: RatedSet, backbone: FrozenBackbone) -> None:
    with pytest.raises(DataError, match="No pictures of"):
        embed_ratings(rated.rows(np.array([], dtype=np.int64)), backbone)


def test_the_strategies_of_the_command_are_the_registry() -> None:

    from ais.cli._training import Strategy

    (choice,) = Strategy.__metadata__  # type: ignore[attr-defined]
    assert tuple(choice.autocompletion("")) == tuple(STRATEGIES)
