from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from ais.attribution.saliency import spectral_residual
from ais.errors import DataError
from ais.rsa import importance as rsa_importance
from ais.rsa.importance import image_importance, importance
from ais.rsa.map_selection import SelectionPlan, evaluate_selection, select_size, selection_curve
from ais.rsa.rdm import (
    METRICS,
    Metric,
    mds,
    noise_ceiling,
    per_subject_correlation,
    rdm,
    rdm_correlation,
)

SIMILARITY92 = Path(__file__).parents[3] / "shared" / "data" / "similarity92"


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """SciPy's; 0 instead of NaN where one does not vary."""
    return float(stats.spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0


def distances(rows: np.ndarray, metric: str) -> np.ndarray:
    """SciPy's, but exactly 0 between equal rows, where its last digit is left to chance."""
    found = squareform(pdist(rows, metric), checks=False)
    found[(rows[:, None] == rows).all(2)] = 0
    return found


def changes(column: np.ndarray, metric: str) -> bool:
    """Whether leaving the column out changes a distance: if not, SciPy's may still differ in the last digit."""
    return {"correlation": True, "cosine": column.any(), "euclidean": np.ptp(column) > 0}[metric]


def dropped(rows: np.ndarray, human: np.ndarray, metric: str) -> np.ndarray:
    """AIS by its definition: every column in turn is dropped, all distances and ranks computed anew: (D,)."""
    upper = np.triu_indices(len(rows), 1)
    whole = spearman(distances(rows, metric)[upper], human[upper])
    return np.array(
        [
            whole - spearman(distances(np.delete(rows, column, 1), metric)[upper], human[upper])
            if changes(rows[:, column], metric)
            else 0
            for column in range(rows.shape[1])
        ]
    )


def dropped_by_image(rows: np.ndarray, human: np.ndarray, metric: str) -> np.ndarray:
    """The same for every picture's own row: (N, D)."""

    def each(matrix: np.ndarray) -> np.ndarray:
        return np.array(
            [spearman(np.delete(matrix[i], i), np.delete(human[i], i)) for i in range(len(matrix))]
        )

    whole = each(distances(rows, metric))
    left = [
        each(distances(np.delete(rows, column, 1), metric)) if changes(rows[:, column], metric) else whole
        for column in range(rows.shape[1])
    ]
    return (whole - np.array(left)).T


def judged(count: int, rng: np.random.Generator, levels: int = 10**6) -> np.ndarray:
    return squareform(rng.integers(1, levels, count * (count - 1) // 2).astype(float))


def random(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(14, 40))


def sparse(rng: np.random.Generator) -> np.ndarray:
    return np.maximum(rng.normal(-0.5, 1, (14, 40)), 0)


def whole_numbers(rng: np.random.Generator) -> np.ndarray:
    """Few values: many distances are equal, and more would be but for rounding."""
    rows = rng.integers(0, 2, (14, 12)).astype(float)
    rows[:, :2] = rng.integers(1, 3, (14, 2))
    rows[:, 2] = 4
    rows[:, 3] = 0
    rows[:, 4:6] = [0, 1]  # without any one of the maps each row still has two values
    return rows


def duplicates(rng: np.random.Generator) -> np.ndarray:
    rows = sparse(rng)
    rows[[3, 7, 9]] = rows[1]
    rows[[4, 5]] = rows[[8, 8]]
    rows[12] = rows[13]
    return rows


def nearly_duplicates(rng: np.random.Generator) -> np.ndarray:
    """Pictures that differ in one map alone are the same picture without it."""
    rows = sparse(rng)
    for copy, original, column in [(3, 1, 5), (4, 1, 5), (7, 8, 5), (9, 10, 6), (11, 12, 7)]:
        rows[copy] = rows[original]
        rows[copy, column] += 1
    return rows


def dead_maps(rng: np.random.Generator) -> np.ndarray:
    rows = sparse(rng)
    rows[:, [0, 17, 39]] = 0
    rows[:, [4, 5]] = 2.5
    return rows


def dominated(rng: np.random.Generator) -> np.ndarray:
    """One map is all but the whole of a few pictures: what is left of them without it is in the last digits."""
    rows = sparse(rng)
    rows[[2, 5], 11] = 1e9
    return rows


def far_from_zero(rng: np.random.Generator) -> np.ndarray:
    return sparse(rng) + 1e6


KINDS = (
    random,
    sparse,
    whole_numbers,
    duplicates,
    nearly_duplicates,
    dead_maps,
    dominated,
    far_from_zero,
)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [10**6, 4])  # people's ties, too
def test_importance_is_that_of_dropping_each_column(kind: Any, metric: Metric, levels: int) -> None:
    rng = np.random.default_rng(1)
    rows = kind(rng)
    human = judged(len(rows), rng, levels)
    expected = dropped(rows, human, metric)
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 1e-3
    assert importance(rows, human, metric) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pictures_importance_is_that_of_its_own_row(kind: Any, metric: Metric) -> None:
    rng = np.random.default_rng(2)
    rows = kind(rng)
    human = judged(len(rows), rng)
    expected = dropped_by_image(rows, human, metric)
    assert np.isfinite(expected).all()
    found = image_importance(rows, human, metric)
    assert found.shape == rows.shape
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(METRICS))
def test_whatever_the_ties_importance_is_that_of_dropping_each_column(data: Any, metric: Metric) -> None:
    count, width = data.draw(st.integers(3, 8)), data.draw(st.integers(3, 6))
    values = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 3.0])
    table = st.lists(st.lists(values, min_size=width, max_size=width), min_size=count, max_size=count)
    rows = np.array(data.draw(table))
    human = squareform(np.arange(count * (count - 1) / 2) % data.draw(st.integers(2, 9)))
    without = [np.delete(rows, column, 1) for column in range(width)]

    def degenerate(part: np.ndarray) -> bool:
        return bool(
            {
                "correlation": np.ptp(part, axis=1) == 0,
                "cosine": ~part.any(1),
                "euclidean": np.zeros(1, bool),
            }[metric].any()
        )

    if any(map(degenerate, [rows, *without])):
        with pytest.raises(DataError, match=r"picture \d+ .*no (correlation|cosine) distance"):
            importance(rows, human, metric)
        return
    assert importance(rows, human, metric) == pytest.approx(dropped(rows, human, metric), abs=1e-9)


def test_equal_pictures_without_a_distance_are_refused() -> None:
    human = squareform([0.0, 1.0, 2.0])
    with pytest.raises(DataError, match=r"Without feature map 2 .* picture 1 .*no correlation distance"):
        importance(np.array([[0.1, 0.1, 0.0]] * 3), human, "correlation")
    assert (importance(np.array([[0.1, 0.2, 0.4]] * 3), human, "correlation") == 0).all()


def test_a_map_that_changes_no_distance_has_no_importance_at_all() -> None:
    rng = np.random.default_rng(0)
    rows = duplicates(rng)
    rows[:, 6], rows[:, 8] = 0, 0.7
    human = judged(len(rows), rng)
    assert importance(rows, human, "cosine")[6] == 0
    assert (importance(rows, human, "euclidean")[[6, 8]] == 0).all()
    assert (image_importance(rows, human, "euclidean")[:, [6, 8]] == 0).all()
    assert importance(rows, human, "correlation")[6] != 0  # it pulls every row's mean towards 0


@pytest.mark.parametrize("metric", METRICS)
def test_scoring_some_maps_or_in_other_batches_changes_nothing(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = sparse(rng)
    human = judged(len(rows), rng)
    everything = importance(rows, human, metric)
    assert (importance(rows, human, metric, range(7, 31)) == everything[7:31]).all()
    assert (
        image_importance(rows, human, metric, range(7, 9)) == image_importance(rows, human, metric)[:, 7:9]
    ).all()
    monkeypatch.setattr(rsa_importance, "_BLOCK", 3 * len(rows) ** 2)
    assert (importance(rows, human, metric) == everything).all()
    assert (importance(torch.from_numpy(rows), torch.from_numpy(human), metric) == everything).all()


def test_the_order_of_maps_and_of_pictures_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = sparse(rng)
    human = judged(len(rows), rng)
    maps, pictures = rng.permutation(rows.shape[1]), rng.permutation(len(rows))
    shuffled = importance(rows[pictures][:, maps], human[np.ix_(pictures, pictures)])
    assert shuffled == pytest.approx(importance(rows, human)[maps], abs=1e-12)


@pytest.mark.parametrize("kind", [sparse, duplicates, whole_numbers])
def test_for_several_people_all_is_the_mean_of_each_persons(kind: Any) -> None:
    rng = np.random.default_rng(0)
    rows = kind(rng)
    people = np.array([judged(len(rows), rng, 9) for _ in range(3)])
    order = rng.permutation(rows.shape[1])
    calls: list[Any] = [
        lambda human: rdm_correlation(rdm(rows), human),
        lambda human: importance(rows, human),
        lambda human: image_importance(rows, human),
        lambda human: selection_curve(rows, human, order, [9, 10]),
    ]
    for call in calls:
        assert call(people) == pytest.approx(np.mean([call(person) for person in people], axis=0), abs=1e-12)
        assert call(people[:1]) == pytest.approx(call(people[0]), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_dissimilarities_are_scipys(metric: Metric) -> None:
    rows = sparse(np.random.default_rng(0))
    found = rdm(torch.from_numpy(rows), metric)
    assert (found == distances(rows, metric)).all()
    assert found.dtype == np.float64


def test_dissimilarities_and_ceiling_are_rsatoolboxs() -> None:
    pytest.importorskip("rsatoolbox")
    from rsatoolbox.data import Dataset
    from rsatoolbox.inference import boot_noise_ceiling
    from rsatoolbox.rdm import RDMs, calc_rdm, compare

    rng = np.random.default_rng(0)
    rows = sparse(rng)
    theirs = calc_rdm(Dataset(rows), method="correlation")
    assert rdm(rows) == pytest.approx(theirs.get_matrices()[0], abs=1e-12)
    people = np.array([judged(len(rows), rng, 12) for _ in range(5)]) + judged(len(rows), rng, 20)
    whole = RDMs(people)
    assert noise_ceiling(people) == pytest.approx(boot_noise_ceiling(whole, method="spearman"), abs=1e-12)
    assert per_subject_correlation(rdm(rows), people) == pytest.approx(
        compare(theirs, whole, method="spearman")[0], abs=1e-12
    )


@pytest.mark.parametrize("levels", [10**6, 3])
def test_alignment_is_spearmans_correlation_of_the_pairs(levels: int) -> None:
    rng = np.random.default_rng(0)
    people = np.array([judged(9, rng, levels) for _ in range(4)])
    model = judged(9, rng, levels)
    upper = np.triu_indices(9, 1)
    expected = [spearman(model[upper], person[upper]) for person in people]
    assert [rdm_correlation(model, person) for person in people] == pytest.approx(expected, abs=1e-12)
    assert per_subject_correlation(model, torch.from_numpy(people)) == pytest.approx(expected, abs=1e-12)
    assert rdm_correlation(np.ones((9, 9)) - np.eye(9), people[0]) == 0


def test_noise_ceiling_is_each_person_beside_the_others_and_beside_all() -> None:
    rng = np.random.default_rng(0)
    people = np.array([judged(9, rng, 5) for _ in range(4)]) + judged(9, rng, 9)
    upper = np.triu_indices(9, 1)
    ranks = np.array([stats.rankdata(person[upper]) for person in people])
    lower = [spearman(ranks[p], np.delete(ranks, p, 0).mean(0)) for p in range(4)]
    higher = [spearman(ranks[p], ranks.mean(0)) for p in range(4)]
    assert noise_ceiling(people) == pytest.approx((np.mean(lower), np.mean(higher)), abs=1e-12)
    assert noise_ceiling(people[:1]) is None
    assert noise_ceiling(people[[0, 0, 0]]) == pytest.approx((1, 1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [random, sparse, duplicates, whole_numbers, far_from_zero])
def test_pruning_curve_is_that_of_choosing_the_columns(kind: Any, metric: Metric) -> None:
    rng = np.random.default_rng(3)
    rows = kind(rng)
    human = judged(len(rows), rng)
    order = rng.permutation(rows.shape[1])
    sizes = [rows.shape[1], 11, 10]
    upper = np.triu_indices(len(rows), 1)
    expected = []
    for size in sizes:
        with np.errstate(invalid="ignore"):
            found = distances(rows[:, order[:size]], metric)[upper]
        expected.append(spearman(np.where(np.isnan(found), 1, found), human[upper]))
    assert selection_curve(rows, human, order, sizes, metric) == pytest.approx(expected, abs=1e-9)
    assert expected[0] == pytest.approx(rdm_correlation(rdm(rows, metric), human), abs=1e-2)


@pytest.mark.parametrize("metric", ["correlation", "cosine"])
def test_a_picture_without_any_of_the_kept_maps_is_far_from_all_others(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((8, 6)) + 0.1
    rows[2, :3] = 0
    rows[5, :3] = 0
    human = judged(8, rng)
    apart = distances(rows[:, :3], metric)
    apart[[2, 5]] = apart[:, [2, 5]] = 1
    upper = np.triu_indices(8, 1)
    expected = spearman(apart[upper], human[upper])
    assert selection_curve(rows, human, np.arange(6), [3], metric) == pytest.approx(expected, abs=1e-12)


def test_one_map_has_no_correlation_distance_and_aligns_with_nothing() -> None:
    rng = np.random.default_rng(0)
    rows, human = rng.random((8, 6)), judged(8, rng)
    one, two = selection_curve(rows, human, np.arange(6), [1, 2])
    assert one == 0
    assert two != 0


def planted(count: int = 36, good: int = 20, noise: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose dissimilarity to people is in the first maps, among loud ones that mean nothing."""
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(count, good))
    rows = np.concatenate([signal, 1.5 * rng.normal(size=(count, noise))], axis=1)
    return rows, rdm(signal + 0.3 * rng.normal(size=signal.shape))


def test_the_maps_that_carry_the_signal_have_the_highest_importance_and_are_kept() -> None:
    rows, human = planted()
    scores = importance(rows, human)
    assert scores[:20].mean() > 0 > scores[20:].mean()
    size = select_size(rows, human, [2, 20, 80], "correlation", 3, np.random.default_rng(0))
    assert size == 20
    assert select_size(rows, human, [80, 20, 2], "correlation", 3, np.random.default_rng(0)) == size


def test_chosen_maps_do_better_on_held_out_pictures_where_there_is_something_to_find() -> None:
    rows, human = planted(60)
    report = evaluate_selection(rows, human, SelectionPlan(splits=12, random_draws=19, seed=3))
    assert report.gain.low > 0
    assert report.gain.share == 1
    assert report.over_random.mean > report.gain.mean  # random maps lose, besides
    assert report.p_value == 1 / 20
    assert (report.training, report.held_out, report.maps) == (40, 20, 80)


def test_nothing_is_gained_where_people_answer_at_random() -> None:
    rows, _ = planted()
    report = evaluate_selection(
        rows, judged(36, np.random.default_rng(8)), SelectionPlan(splits=20, random_draws=19)
    )
    assert report.gain.low < 0 < report.gain.high
    assert report.p_value > 0.05


def test_the_choice_sees_no_pair_of_a_held_out_picture() -> None:
    rows, human = planted()
    before = evaluate_selection(rows, human, SelectionPlan(splits=2, random_draws=3, seed=7))
    held = np.random.default_rng([7, 0]).permutation(36)[:12]  # in the first split
    other = human.copy()
    rng = np.random.default_rng(1)
    for i in held:
        for j in range(36):
            if i != j:
                other[i, j] = other[j, i] = rng.random()
    after = evaluate_selection(rows, other, SelectionPlan(splits=2, random_draws=3, seed=7))
    assert after.kept[0] == before.kept[0]
    assert after.curve[0] != pytest.approx(before.curve[0])
    # Seen from the other side: what people said of the rest does not change how the held-out pictures are judged.
    rest = np.setdiff1d(np.arange(36), held)
    other = human.copy()
    other[np.ix_(rest, rest)] = judged(24, rng)
    after = evaluate_selection(rows, other, SelectionPlan(splits=2, random_draws=3, seed=7))
    assert after.rdm_correlation_all[0] == before.rdm_correlation_all[0]


def test_a_split_is_that_of_its_seed_however_many_there_are() -> None:
    rows, human = planted()
    few, more = (
        evaluate_selection(rows, human, SelectionPlan(splits=s, random_draws=4, seed=2)) for s in (3, 5)
    )
    other = evaluate_selection(rows, human, SelectionPlan(splits=3, random_draws=4, seed=1))
    for name in (
        "kept",
        "rdm_correlation_all",
        "rdm_correlation_kept",
        "rdm_correlation_random",
        "curve",
        "random_curve",
    ):
        assert (getattr(few, name) == getattr(more, name)[:3]).all()
    assert (few.rdm_correlation_all != other.rdm_correlation_all).any()


def test_a_split_is_what_its_parts_say() -> None:
    rows, human = planted()
    sizes = [10, 40]
    report = evaluate_selection(
        rows, human, SelectionPlan(splits=2, sizes=sizes, random_draws=3, seed=4), metric="cosine"
    )
    rng = np.random.default_rng([4, 1])
    order = rng.permutation(36)
    held, rest = order[:12], order[12:]
    known = rows[rest], human[np.ix_(rest, rest)]
    best_first = np.argsort(-importance(*known, "cosine"), kind="stable")
    kept = select_size(*known, sizes, "cosine", 3, rng)
    truth = human[np.ix_(held, held)]
    assert report.kept[1] == kept
    assert report.rdm_correlation_all[1] == pytest.approx(rdm_correlation(rdm(rows[held], "cosine"), truth))
    assert report.curve[1] == pytest.approx(selection_curve(rows[held], truth, best_first, sizes, "cosine"))
    chosen = rows[held][:, best_first[:kept]]
    assert report.rdm_correlation_kept[1] == pytest.approx(rdm_correlation(rdm(chosen, "cosine"), truth))
    drawn = [
        rdm_correlation(rdm(rows[held][:, rng.permutation(80)[:kept]], "cosine"), truth) for _ in range(3)
    ]
    assert report.rdm_correlation_random[1] == pytest.approx(drawn)
    assert report.random_curve[1, sizes.index(kept)] == pytest.approx(np.mean(drawn))


def test_the_interval_allows_for_splits_that_share_their_pictures() -> None:
    rows, human = planted()
    report = evaluate_selection(rows, human, SelectionPlan(splits=10, random_draws=2))
    difference = report.rdm_correlation_kept - report.rdm_correlation_all
    error = np.sqrt((1 / 10 + 12 / 24) * difference.var(ddof=1))
    half = stats.t(9).ppf(0.975) * error
    gain = report.gain
    assert (gain.mean, gain.low, gain.high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half)
    )
    assert gain.low < gain.bootstrap_low < gain.mean < gain.bootstrap_high < gain.high


def test_keeping_all_maps_gains_exactly_nothing() -> None:
    rows, human = planted()
    report = evaluate_selection(rows, human, SelectionPlan(splits=3, sizes=[80], random_draws=4))
    assert (report.gain.mean, report.gain.share, report.over_random.mean, report.p_value) == (0, 0, 0, 1)


def test_progress_is_told_and_the_report_is_json() -> None:
    rows, human = planted()
    seen: list[tuple[int, int]] = []
    report = evaluate_selection(
        rows,
        human,
        SelectionPlan(splits=2, random_draws=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["kept"] == report.kept.tolist()
    assert told["gain"]["mean"] == report.gain.mean
    assert told["sizes"][-1] == 80
    assert all(a < b for a, b in pairwise(told["sizes"]))


ROWS = np.random.default_rng(0).random((5, 4))

HUMAN = judged(5, np.random.default_rng(0))


def changed(row: int, values: Any) -> np.ndarray:
    rows = ROWS.copy()
    rows[row] = values
    return rows


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rdm(changed(2, 0.1)), "picture 3 is the same everywhere"),
        (lambda: rdm(changed(2, 0), "cosine"), "picture 3 is 0 everywhere"),
        (lambda: importance(changed(1, [0, 0, 2, 0]), HUMAN), "Without feature map 2 .* picture 2"),
        (lambda: image_importance(changed(1, [0, 0, 2, 0]), HUMAN, "cosine"), "Without feature map 2"),
        (lambda: rdm(changed(2, np.nan)), "embeddings must be finite"),
        (lambda: rdm(ROWS, "manhattan"), "no metric 'manhattan'"),  # type: ignore[arg-type]
        (lambda: rdm(ROWS[:2]), "at least 3 pictures"),
        (lambda: rdm(ROWS[:, :1]), "at least two coordinates"),
        (lambda: importance(ROWS, HUMAN[:4, :4]), "5 pictures are 5 × 5"),
        (lambda: importance(ROWS, HUMAN[None, :4]), "5 pictures are 5 × 5"),
        (lambda: importance(ROWS, HUMAN[:0]), "5 pictures are 5 × 5"),
        (lambda: importance(ROWS, HUMAN * np.nan), "Dissimilarities must be finite"),
        (lambda: importance(ROWS, HUMAN, maps=range(2, 5)), "not coordinates of an embedding of 4"),
        (lambda: selection_curve(ROWS, HUMAN, np.arange(4), [2, 5]), "From 1 to 4"),
        (lambda: select_size(ROWS, HUMAN, [2], "cosine", 2, np.random.default_rng(0)), "5 pictures in 2"),
        (lambda: evaluate_selection(ROWS, HUMAN), "2 of 5 pictures held out"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_a_sentence(call: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as refusal:
        call()
    assert str(refusal.value).endswith(".")


def test_points_on_a_plane_are_found_again() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 2)) * [3, 1]
    found = mds(distances(points, "euclidean"))
    assert distances(found, "euclidean") == pytest.approx(distances(points, "euclidean"))
    assert found.var(0)[0] > found.var(0)[1]
    moved = mds(distances(points @ [[0, 1], [-1, 0]] + 5, "euclidean"))
    assert moved == pytest.approx(found)
    assert mds(1 - np.eye(3)).shape == (3, 2)
    assert mds(np.abs(np.subtract.outer(range(4), range(4))))[:, 1] == pytest.approx(np.zeros(4), abs=1e-6)


def test_saliency_is_the_spectral_residual() -> None:
    """Sixty-four pixels a side need no resizing: then it is the paper's formula, written out."""
    picture = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    spectrum = np.fft.fft2(picture)
    logarithm = np.log(np.abs(spectrum))
    residual = np.empty_like(logarithm)
    for i in range(64):
        for j in range(64):
            around = [
                logarithm[min(max(i + a, 0), 63), min(max(j + b, 0), 63)]
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
            ]
            residual[i, j] = logarithm[i, j] - np.mean(around)
    squared = np.abs(np.fft.ifft2(np.exp(residual) * spectrum / np.abs(spectrum))) ** 2
    weights = np.exp(-(np.arange(-10, 11) ** 2) / (2 * 2.5**2))
    weights /= weights.sum()
    smooth = np.pad(squared, 10, mode="symmetric")
    smooth = sum(w * smooth[i : i + 64] for i, w in enumerate(weights))
    smooth = sum(w * smooth[:, i : i + 64] for i, w in enumerate(weights))
    expected = (smooth - smooth.min()) / np.ptp(smooth)
    assert spectral_residual(picture) == pytest.approx(expected, abs=1e-5)


def test_what_stands_out_is_salient() -> None:
    picture = np.full((120, 200, 3), 0.5)
    picture += 0.02 * np.random.default_rng(0).normal(size=(120, 200, 1))
    picture[30:45, 140:155] = [0.9, 0.2, 1.0]
    found = spectral_residual(picture)
    y, x = np.unravel_index(int(found.argmax()), found.shape)
    assert abs(y - 37) < 12
    assert abs(x - 147) < 12
    assert found.shape == (120, 200)
    assert (found.min(), found.max()) == (0, 1)
    assert spectral_residual(torch.from_numpy(255 * picture)) == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 3), (1, 300)])
def test_nothing_is_salient_in_a_plain_picture(shape: tuple[int, ...]) -> None:
    found = spectral_residual(np.full(shape, 77.0))
    assert found.shape == shape[:2]
    assert not found.any()


@pytest.mark.skipif(not SIMILARITY92.exists(), reason="similarity92 is not here")
def test_ceiling_of_twelve_people_and_ninety_two_pictures() -> None:
    people = np.load(SIMILARITY92 / "human_rdms.npy")
    assert noise_ceiling(people) == pytest.approx((0.4566, 0.5794), abs=1e-4)
