"""Silencing maps: every short cut against the head run anew on embeddings changed map by map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.errors import DataError
from ais.heads.regression import RegressionHead
from ais.training import pruning
from ais.training.criteria import CRITERIA, ScoredFold
from ais.training.pruning import ablate, greedy, mean_residual, negative_impact, prune
from helpers.heads import make_head

OWNER = range(3, 23)  # 20 maps feed the middle of 30 coordinates


def judged(pictures: int = 40, seed: int = 0, *, head: RegressionHead | None = None) -> ScoredFold:
    """Pictures whose ratings a head meets up to noise, in float64; groups of two."""
    head = head or make_head(dim=30, channels=20, hidden=24, seed=seed).double()
    generator = torch.Generator().manual_seed(100 + seed)
    embedding = torch.randn(pictures, 30, generator=generator, dtype=torch.float64)
    delta = torch.randn(pictures, 20, generator=generator, dtype=torch.float64)
    delta[:, 7] = 0  # a map that is silent already
    noise = torch.randn(pictures, generator=generator, dtype=torch.float64)
    ratings = (head.score(embedding) + noise).numpy()
    return ScoredFold(
        head, embedding, delta, ratings, [f"seed {seed} pair {i // 2}" for i in range(pictures)]
    )


def moved(part: ScoredFold, channels: list[int]) -> Tensor:
    """The embeddings with these maps ablated, one by one."""
    embedding = part.embedding.clone()
    for channel in channels:
        embedding[:, OWNER[channel]] += part.delta[:, channel]
    return embedding


def errors(parts: list[ScoredFold], channels: list[int]) -> np.ndarray:
    """Score less rating of all pictures with these maps ablated."""
    return np.concatenate([part.head.score(moved(part, channels)).numpy() - part.ratings for part in parts])


def naive_residual(parts: list[ScoredFold]) -> list[float]:
    before = np.abs(errors(parts, []))
    return [float((np.abs(errors(parts, [c])) - before).mean()) for c in range(len(OWNER))]


def naive_greedy(parts: list[ScoredFold]) -> list[bool]:
    pruned: list[int] = []
    lowest = float((errors(parts, []) ** 2).sum())
    for channel in np.argsort(naive_residual(parts), kind="stable").tolist():
        error = float((errors(parts, [*pruned, channel]) ** 2).sum())
        if error < lowest * (1 - 1e-12):
            lowest = error
            pruned.append(channel)
    return [c not in pruned for c in range(len(OWNER))]


def sets() -> list[list[ScoredFold]]:
    return [[judged()], [judged(11, 1), judged(1, 2), judged(30, 3)]]


@pytest.mark.parametrize("parts", sets(), ids=["one head", "a head for every fold"])
@pytest.mark.parametrize("block", [1, 500, 1 << 17])  # values: one picture, a few, all
def test_greedy_equals_the_naive_loop(
    parts: list[ScoredFold], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_BLOCK_VALUES", block)
    oracle = naive_greedy(parts)
    assert 3 < sum(oracle) < 17
    assert greedy(parts, OWNER).tolist() == oracle
    assert oracle[7]  # ablating a map without effect lowers nothing


@pytest.mark.parametrize("parts", sets(), ids=["one head", "a head for every fold"])
def test_negative_impact_equals_the_naive_loop(parts: list[ScoredFold]) -> None:
    oracle = naive_residual(parts)
    np.testing.assert_allclose(mean_residual(parts, OWNER).numpy(), oracle, rtol=1e-9, atol=1e-12)
    keep = negative_impact(parts, OWNER)
    assert keep.tolist() == [value >= 0 for value in oracle]
    assert keep[7]
    assert 3 < keep.sum() < 17


def test_greedy_lowers_the_error_further_than_all_harmful_maps_at_once() -> None:
    parts = [judged()]

    def rmse(keep: Tensor) -> float:
        return float(np.sqrt((errors(parts, (~keep).nonzero()[:, 0].tolist()) ** 2).mean()))

    nothing = rmse(torch.ones(20, dtype=torch.bool))
    assert rmse(greedy(parts, OWNER)) < min(nothing, rmse(negative_impact(parts, OWNER)))


def test_ablating_equals_the_network_without_these_maps(tiny: FrozenBackbone) -> None:
    pictures = torch.randn(3, 3, 64, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keep = torch.ones(12, dtype=torch.bool)
    keep[[1, 4, 5, 11]] = False
    features = tiny(pictures)
    assert features.delta is not None
    assert tiny.embedding_slice is not None
    embedding, delta = ablate(features.embedding, features.delta, tiny.embedding_slice, keep)
    maps = features.maps.clone()
    maps[:, ~keep] = 0
    oracle = tiny.tail(maps, *features.side_inputs)
    assert not torch.equal(oracle, features.embedding)
    torch.testing.assert_close(embedding, oracle, rtol=1e-12, atol=1e-12)
    assert (delta[:, ~keep] == 0).all()
    assert torch.equal(delta[:, keep], features.delta[:, keep])


def test_ablating_touches_the_coordinates_of_these_maps_only() -> None:
    part = judged(5)
    before = part.embedding.clone(), part.delta.clone()
    keep = torch.ones(20, dtype=torch.bool)
    keep[[0, 19]] = False
    embedding, _ = ablate(part.embedding, part.delta, OWNER, keep)
    changed = (embedding != part.embedding).any(0).nonzero()[:, 0].tolist()
    assert changed == [OWNER[0], OWNER[19]]
    torch.testing.assert_close(embedding, moved(part, [0, 19]))
    assert torch.equal(part.embedding, before[0])  # the caller's own stay as they are
    assert torch.equal(part.delta, before[1])


@pytest.mark.parametrize("how", sorted(CRITERIA))
def test_report_is_what_the_pruned_maps_do(how: str) -> None:
    validation, test = [judged()], [judged(30, 4), judged(30, 5)]
    steps: list[tuple[int, int]] = []
    keep, report = prune(validation, test, OWNER, how, lambda done, total: steps.append((done, total)))  # type: ignore[arg-type]
    assert torch.equal(keep, CRITERIA[how].choose(validation, OWNER, None))  # type: ignore[index]
    assert (report.criterion, report.maps, report.pruned) == (how, 20, 20 - int(keep.sum()))
    pruned = (~keep).nonzero()[:, 0].tolist()
    for parts, measured in ((validation, report.validation), (test, report.test)):
        ratings = np.concatenate([part.ratings for part in parts])
        for when, channels in (("before", []), ("after", pruned)):
            error = errors(parts, channels)
            assert measured[when]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
            assert measured[when]["plcc"] == pytest.approx(np.corrcoef(error + ratings, ratings)[0, 1])
    change = report.difference
    for name in ("plcc", "rmse"):
        assert change[name] == pytest.approx(report.test["after"][name] - report.test["before"][name])
        assert change[f"{name}_low"] < change[name] < change[f"{name}_high"]
    assert steps[-1] == (20, 20)
    assert report.validation["after"]["rmse"] < report.validation["before"]["rmse"]


def test_maps_chosen_on_noise_are_no_gain() -> None:
    _, report = prune([judged()], [judged(60, 6)], OWNER)  # heads and ratings that have nothing in common
    assert not report.gain


def test_maps_that_only_disturb_are_a_gain() -> None:
    """Ratings made with five maps ablated: pruning them is right on any picture."""
    head = make_head(dim=30, channels=20, hidden=24).double()
    keep = torch.ones(20, dtype=torch.bool)
    keep[[2, 3, 11, 12, 19]] = False

    def disturbed(pictures: int, seed: int) -> ScoredFold:
        part = judged(pictures, seed, head=head)
        ratings = head.score(ablate(part.embedding, part.delta, OWNER, keep)[0]).numpy()
        return ScoredFold(head, part.embedding, part.delta, ratings, part.groups)

    chosen, report = prune([disturbed(200, 7)], [disturbed(200, 8)], OWNER)
    assert not chosen[~keep].any()
    assert report.gain
    assert report.difference["plcc_low"] > 0 > report.difference["rmse_high"]


def test_the_same_group_on_both_sides_is_refused() -> None:
    with pytest.raises(DataError, match="'seed 0 pair 0' are in both"):
        prune([judged()], [judged()], OWNER)


@pytest.mark.parametrize(("validation", "test"), [([], [judged()]), ([judged()], [])])
def test_a_set_without_pictures_is_refused(validation: list[ScoredFold], test: list[ScoredFold]) -> None:
    with pytest.raises(DataError, match="takes validation pictures"):
        prune(validation, test, OWNER)
