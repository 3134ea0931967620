"""Heads: the arithmetic, and what they keep of the pictures they were trained on."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ais.heads.base import content_key
from ais.heads.regression import RegressionHead
from helpers.heads import change_head, make_head


def test_variants_together_equal_each_alone() -> None:
    head = make_head(variants=4).double()
    embedding = torch.randn(5, 12, dtype=torch.float64)
    for k in range(4):
        first, second = nn.Linear(12, 16).double(), nn.Linear(16, 1).double()
        first.weight.data, first.bias.data = head.weight1[k], head.bias1[k]
        second.weight.data, second.bias.data = head.weight2[k][None], head.bias2[k][None]
        alone = 4.0 + 1.5 * nn.Sequential(first, nn.ReLU(), second)(embedding)[:, 0]
        torch.testing.assert_close(head(embedding)[:, k], alone.detach())
    torch.testing.assert_close(head.score(embedding), head(embedding).mean(1))


def test_interval_grows_with_the_variants_spread() -> None:
    head = make_head()
    agree, disagree = torch.tensor([[4.0, 4.0, 4.0]]), torch.tensor([[3.0, 4.0, 5.0]])
    assert head.half_width(agree).item() == pytest.approx(1.6 * 0.5)
    assert head.half_width(disagree).item() == pytest.approx(1.6 * (0.25 + 2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("score", "percentile"), [(0.0, 0.0), (1.5, 0.0), (1.525, 0.5), (4.0, 50.0), (6.5, 100.0), (9.0, 100.0)]
)
def test_percentile_between_the_quantiles(score: float, percentile: float) -> None:
    assert make_head().percentile(score) == pytest.approx(percentile, abs=1e-3)


def test_reach_follows_the_weights() -> None:
    head = make_head()
    assert torch.equal(head.weight_bound[:, 0], head.weight1.abs().amax(-1).flatten())
    head.weight1 *= 2
    assert torch.equal(head.weight_bound[:, 0], head.weight1.abs().amax(-1).flatten())
    head.load_state_dict(make_head(seed=3).state_dict())
    assert torch.equal(head.weight_bound[:, 0], head.weight1.abs().amax(-1).flatten())


hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(hashes)
def test_a_pictures_key_is_the_beginning_of_its_hash(sha256: str) -> None:
    assert content_key(sha256) == struct.unpack(">q", bytes.fromhex(sha256)[:8])[0]
    assert torch.tensor(content_key(sha256)).item() == content_key(sha256)  # it fits int64


def test_knows_the_pictures_it_was_trained_on() -> None:
    files = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]
    head = change_head(make_head(), trained_on=[content_key(sha256) for sha256 in files[::2]])
    assert {key < 0 for key in head.trained_on.tolist()} == {True, False}
    assert head.was_trained_on(files) == [n % 2 == 0 for n in range(20)]
    assert head.double().was_trained_on([sha256.upper() for sha256 in files[:2]]) == [True, False]
    assert head.was_trained_on([]) == []


def test_without_a_record_no_picture_is_known() -> None:
    head = make_head()
    assert "trained_on" not in head.state_dict()
    assert head.was_trained_on(["00" * 32]) == [False]


def test_pruned_maps_are_those_not_kept() -> None:
    head = change_head(make_head(), pruned=[0, 7, 7, 11])
    assert (~head.keep).nonzero()[:, 0].tolist() == [0, 7, 11]
    assert make_head().keep.all()
    assert head.keep.dtype == head.double().keep.dtype == torch.bool
    assert isinstance(head, RegressionHead)
    assert "keep" not in head.state_dict()  # the config alone says it
