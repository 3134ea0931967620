"""Heads: the arithmetic, and a folder that is what its config says or a sentence."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ais.errors import HeadError
from ais.heads import EMBEDDED, list_heads, load_head
from conftest import make_head


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
    assert head.interval(agree).item() == pytest.approx(1.6 * 0.5)
    assert head.interval(disagree).item() == pytest.approx(1.6 * (0.25 + 2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("score", "percentile"), [(0.0, 0.0), (1.5, 0.0), (1.525, 0.5), (4.0, 50.0), (6.5, 100.0), (9.0, 100.0)]
)
def test_percentile_between_the_quantiles(score: float, percentile: float) -> None:
    assert make_head().percentile(score) == pytest.approx(percentile, abs=1e-3)


def test_reach_follows_the_weights() -> None:
    head = make_head()
    assert torch.equal(head.reach[:, 0], head.weight1.abs().amax(-1).flatten())
    head.weight1 *= 2
    assert torch.equal(head.reach[:, 0], head.weight1.abs().amax(-1).flatten())
    head.load_state_dict(make_head(seed=3).state_dict())
    assert torch.equal(head.reach[:, 0], head.weight1.abs().amax(-1).flatten())


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    head = make_head()
    head.save(tmp_path / "test-head", card="# card\n")
    loaded = load_head(tmp_path / "test-head")
    assert sorted(p.name for p in (tmp_path / "test-head").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in head.state_dict().items())
    assert loaded.config.target == head.config.target
    head.save(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "test-head/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", list_heads())
def test_shipped_heads_load(name: str) -> None:
    head = load_head(name)
    assert head.config.name == name
    assert head.config.metrics["plcc"] >= 0.70
    assert head.alignment.abs().sum() > 0
    assert (head.rating_quantiles.diff() >= 0).all()


def test_the_embedded_default_is_there() -> None:
    assert list_heads()[0] == EMBEDDED


def test_unknown_head_says_which_there_are() -> None:
    with pytest.raises(HeadError, match=f"no head 'beuaty'.*{EMBEDDED}"):
        load_head("beuaty")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_head().save(tmp_path)
    return tmp_path


def _edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Other weights, with their right hash."""
    import hashlib

    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
    _edit(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 99}, "format 99, newer"),
        ({"format": "1"}, "format should be"),
        ({"view": "middle"}, "view should be crop or whole"),
        ({"dim": -1}, "dim should be a positive"),
        ({"dim": 1e9}, "dim should be a positive"),
        ({"hidden": True}, "hidden should be a positive"),
        ({"variants": 4}, r"weight1|bias1"),
        ({"channels": 13}, "alignment"),
        ({"target": None}, "not a head's config"),
        ({"target": {"name": "x", "low": 7, "high": 1}}, "low end"),
        ({"target": {"name": "x", "low": "1", "high": 7}}, "numbers"),
        ({"interval": {"level": 2, "error": 1, "factor": 1}}, "level"),
        ({"name": ""}, "name should be a word"),
        ({"backbone": ["x"]}, "backbone should be a word"),
        ({"metrics": 3}, "metrics"),
    ],
)
def test_config_that_is_wrong_is_a_sentence(folder: Path, changes: dict[str, object], sentence: str) -> None:
    _edit(folder, **changes)
    with pytest.raises(HeadError, match=sentence):
        load_head(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00", "[" * 100_000, '{"format": 1}', "NaN"])
def test_config_that_is_none_is_a_sentence(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(HeadError, match=r"config\.json"):
        load_head(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight2": None}, "lacks the tensor weight2"),
        ({"more": torch.zeros(2)}, "holds a tensor that heads do not have: 'more'"),
        ({"bias2": torch.zeros(4)}, r"bias2 is F32 \[4\].*should be F32 \[3\]"),
        ({"bias2": torch.zeros(3, dtype=torch.float64)}, "bias2 is F64"),
        ({"bias2": torch.tensor([0.0, float("nan"), 0.0])}, "bias2.*not finite"),
        ({"rating_mean": torch.tensor(float("inf"))}, "rating_mean.*not finite"),
    ],
)
def test_weights_that_are_wrong_are_a_sentence(
    folder: Path, changes: dict[str, torch.Tensor | None], sentence: str
) -> None:
    _weights(folder, **changes)
    with pytest.raises(HeadError, match=sentence):
        load_head(folder)


def test_one_flipped_byte_is_noticed(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(HeadError, match="damaged"):
        load_head(folder)


def test_header_that_claims_the_moon_allocates_nothing(folder: Path) -> None:
    header = json.dumps(
        {"weight1": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    )
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(HeadError, match=r"lacks|should be"):
        load_head(folder)


@pytest.mark.parametrize("data", [b"", b"x", struct.pack("<Q", 2**60) + b"{}", pickle.dumps({"weight1": 1})])
def test_what_is_no_safetensors_file_is_a_sentence(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(HeadError, match="not a safetensors file"):
        load_head(folder)


def test_a_pickle_beside_it_is_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(HeadError, match=r"model\.safetensors cannot be read"):
        load_head(folder)
