"""Heads: the arithmetic, and what they keep of the pictures they were trained on."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import ais
from ais.backbones.loading import load_backbone
from ais.errors import HeadError
from ais.heads.base import content_key
from ais.heads.config import Member, StackConfig
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.workflows.score import score_images
from helpers.heads import change_head, make_head
from helpers.networks import add_backbone


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


def _state(head: RegressionHead) -> list[object]:
    """All that there is to a head, but for what it keeps of its own weights to be quick."""
    tensors = {**dict(head.named_buffers()), **dict(head.named_parameters())}
    about = [(n, t.data_ptr(), t.dtype, t.device, t.requires_grad, t._version) for n, t in tensors.items()]
    plain = {key: value for key, value in vars(head).items() if key not in ("_bound", "_buffers", "_modules")}
    return [about, repr(plain), head.training]


Change = Callable[[RegressionHead], object]

CHANGES: dict[str, Change] = {
    "as loaded": lambda head: head,
    "in training": lambda head: head.train(),
    "float64": lambda head: head.double(),
    "with gradients": lambda head: head.weight1.requires_grad_(),
    "with a mark": lambda head: setattr(head, "mark", "mine"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_explaining_and_scoring_do_not_touch_the_callers_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Image.Image
) -> None:
    add_backbone(monkeypatch, tmp_path, "tiny12")
    head = make_head("tiny12", size=64, view="resize")
    expected = ais.explain(photograph, head)
    CHANGES[name](head)
    before = _state(head)
    found = ais.explain(photograph, head)
    assert ais.score(photograph, head).score == found.score == expected.score
    np.testing.assert_array_equal(found.importance, expected.importance)
    (scored,) = score_images([_file(photograph, tmp_path)], head, cache=False)
    assert scored.score is not None
    assert scored.score.score == pytest.approx(found.score, abs=1e-4)
    assert _state(head) == before


def _file(image: Image.Image, folder: Path) -> Path:
    image.save(folder / "image.png")
    return folder / "image.png"


def test_a_head_of_other_weights_of_its_backbone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Image.Image
) -> None:
    add_backbone(monkeypatch, tmp_path, "tiny12")
    backbone = load_backbone("tiny12")
    head = make_head("tiny12", size=64, view="resize")
    right = change_head(head, backbone_sha256=backbone.sha256)
    assert ais.score(photograph, right) == ais.score(photograph, head)
    wrong = change_head(head, backbone_sha256="0" * 16)
    wrong.save(tmp_path / "wrong")
    for named in (wrong, tmp_path / "wrong"):
        for use in (ais.score, ais.explain):
            with pytest.raises(
                HeadError,
                match=rf"trained on a tiny12 with other weights .*0{{16}}.* here \({backbone.sha256}\)",
            ):
                use(photograph, named)


def test_on_another_device_it_is_a_copy_of_all_of_it() -> None:
    """Also of what its file does not hold, and of a stack's members."""
    single = change_head(make_head(), pruned=[1])
    config = StackConfig(
        name="stack", variants=3, target=single.config.target, interval=single.config.interval,
        members=[Member("a", ""), Member("b", "")],
    )  # fmt: skip
    for head in (single, StackedHead(config, [make_head(seed=1), make_head(seed=2)])):
        head.notice = "kept"
        there = head.on("meta")
        assert type(there) is type(head)
        assert there.notice == "kept"
        assert {buffer.device.type for buffer in there.buffers()} == {"meta"}
        assert {buffer.device.type for buffer in head.buffers()} == {"cpu"}
        assert len(list(there.buffers())) == len(list(head.buffers()))
        assert head.on("cpu") is head
        twice = head.double().on("cpu")
        assert {buffer.dtype for buffer in twice.buffers()} <= {torch.float32, torch.bool}
        assert all(
            torch.equal(value, twice.state_dict()[n].double()) for n, value in head.state_dict().items()
        )
