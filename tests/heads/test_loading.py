"""A head's folder is what its config says, or a sentence."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ais.errors import HeadError
from ais.heads.config import EMBEDDED
from ais.heads.loading import load_head, tuned_backbone
from ais.heads.regression import RegressionHead
from ais.heads.shipped import heads_directory, list_heads
from ais.heads.stack import StackedHead
from helpers.heads import change_head, edit, make_head


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_head().save(tmp_path)
    return tmp_path


def _weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Other weights, with their right hash."""
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
    edit(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


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


def test_a_pruned_head_keeps_its_maps_silent(tmp_path: Path) -> None:
    head = change_head(make_head(), pruned=[2, 9])
    head.save(tmp_path)
    loaded = load_head(tmp_path)
    assert isinstance(loaded, RegressionHead)
    assert torch.equal(loaded.keep, head.keep)
    assert loaded.config.pruned == [2, 9]


def test_what_it_has_seen_is_saved_exactly(tmp_path: Path) -> None:
    keys = [-(2**63), 2**63 - 1, 2**53 + 1, 0]  # the third is no float64
    change_head(make_head(), trained_on=keys).save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")["trained_on"]
    assert stored.dtype == torch.int64
    assert stored.tolist() == keys
    loaded = load_head(tmp_path)
    assert loaded.trained_on.tolist() == keys
    assert loaded.was_trained_on(["80" + "00" * 31, "ff" * 32]) == [True, False]


def test_seen_pictures_are_not_kept_as_fractions(tmp_path: Path) -> None:
    change_head(make_head(), trained_on=[1, 2]).save(tmp_path)
    _weights(tmp_path, trained_on=torch.tensor([1.0, 2.0]))
    with pytest.raises(HeadError, match=r"trained_on is F32 \[2\].*should be I64 \[2\]"):
        load_head(tmp_path)


def test_a_folder_from_before_pruning_and_tuning_loads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("pruned", "tuned_sha256", "trained_on"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_head(folder)
    assert isinstance(loaded, RegressionHead)
    assert loaded.keep.all()
    assert loaded.was_trained_on(["00" * 32]) == [False]
    assert tuned_backbone(loaded) is None


def test_what_a_newer_writer_adds_is_passed_over(folder: Path) -> None:
    before = load_head(folder).config
    edit(folder, colour="blue")
    assert load_head(folder).config == before


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A head with a backbone of its own, whose file is any bytes as far as finding it goes."""
    data = b"the tensors of a network"
    head = change_head(make_head(), tuned_sha256=hashlib.sha256(data).hexdigest())
    head.save(tmp_path, extra={"backbone.safetensors": data})
    return tmp_path


def test_a_tuned_backbone_lies_beside_its_head(tuned: Path) -> None:
    head = load_head(tuned)
    assert isinstance(head, RegressionHead)
    assert head.config.backbone_label == "tiny, tuned"
    assert tuned_backbone(head) == tuned / "backbone.safetensors"


def test_a_tuned_backbone_that_is_another_is_refused(tuned: Path) -> None:
    head = load_head(tuned)
    assert isinstance(head, RegressionHead)
    (tuned / "backbone.safetensors").write_bytes(b"the tensors of a Network")
    with pytest.raises(HeadError, match=r"backbone\.safetensors is damaged, or not the backbone"):
        tuned_backbone(head)
    (tuned / "backbone.safetensors").unlink()
    with pytest.raises(
        HeadError, match=r"backbone\.safetensors, the backbone of its head, cannot be read: No"
    ):
        tuned_backbone(head)
    (tuned / "backbone.safetensors").mkdir()
    with pytest.raises(HeadError, match=r"backbone\.safetensors, the backbone of its head, cannot be read"):
        tuned_backbone(head)


def test_a_tuned_backbone_without_a_folder_is_refused() -> None:
    with pytest.raises(HeadError, match="'test-head' has a backbone of its own: save the head"):
        tuned_backbone(change_head(make_head(), tuned_sha256="ab" * 32))


@pytest.mark.parametrize("name", list_heads())
def test_shipped_heads_load(name: str) -> None:
    head = load_head(name)
    assert head.config.name == name
    assert head.config.metrics["plcc_low"] > 0.4
    assert (head.rating_quantiles.diff() >= 0).all()
    for member in head.members if isinstance(head, StackedHead) else [head]:
        assert member.mean_residual.abs().sum() > 0


def test_the_embedded_default_is_there() -> None:
    assert list_heads()[0] == EMBEDDED
    assert load_head().config.metrics["plcc"] >= 0.70


def test_unknown_head_says_which_there_are() -> None:
    with pytest.raises(HeadError, match=f"no head 'beuaty'.*{EMBEDDED}"):
        load_head("beuaty")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 99}, "format 99, newer"),
        ({"format": "1"}, "format should be"),
        ({"view": "middle"}, "view should be crop or resize"),
        ({"dim": -1}, "dim should be a positive"),
        ({"dim": 1e9}, "dim should be a positive"),
        ({"hidden": True}, "hidden should be a positive"),
        ({"variants": 4}, r"weight1|bias1"),
        ({"channels": 13}, "mean_residual"),
        ({"target": None}, "not a head's config"),
        ({"target": {"name": "x", "low": 7, "high": 1}}, "low end"),
        ({"target": {"name": "x", "low": "1", "high": 7}}, "numbers"),
        ({"interval": {"level": 2, "error": 1, "factor": 1}}, "level"),
        ({"name": ""}, "name should be a word"),
        ({"backbone": ["x"]}, "backbone should be a word"),
        ({"metrics": 3}, "metrics"),
        ({"name": "../../elsewhere"}, "name should be that of a folder"),
        ({"name": "/elsewhere"}, "name should be that of a folder"),
        ({"name": "a\\b"}, "name should be that of a folder"),
        ({"name": ".."}, "name should be that of a folder"),
        ({"pruned": [12]}, "pruned should list feature maps by their numbers"),
        ({"pruned": [-1]}, "pruned should list"),
        ({"pruned": [1.0]}, "pruned should list"),
        ({"pruned": [True]}, "pruned should list"),
        ({"pruned": [[1]]}, "pruned should list"),
        ({"pruned": "1"}, "pruned should list"),
        ({"pruned": None}, "pruned should list"),
        ({"pruned": {"1": 1}}, "pruned should list"),
        ({"tuned_sha256": None}, "tuned_sha256 should be text"),
        ({"trained_on": -1}, "trained_on.* should be a whole number"),
        ({"trained_on": True}, "trained_on.* should be a whole number"),
        ({"trained_on": None}, "trained_on.* should be a whole number"),
        ({"trained_on": 2}, "lacks the tensor trained_on"),
    ],
)
def test_config_that_is_wrong_is_a_sentence(folder: Path, changes: dict[str, object], sentence: str) -> None:
    edit(folder, **changes)
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
        (
            {"trained_on": torch.zeros(3, dtype=torch.int64)},
            "holds a tensor that heads do not have: 'trained_on'",
        ),
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


# A name that is also a folder here ---------------------------------------------------------------------------


@pytest.fixture
def namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the working folder, a head that is called as one that comes with AIS."""
    change_head(make_head(), about="mine").save(tmp_path / EMBEDDED)
    monkeypatch.chdir(tmp_path)
    return tmp_path / EMBEDDED


@pytest.mark.parametrize("source", [Path(EMBEDDED), f"./{EMBEDDED}", f"../{{parent}}/{EMBEDDED}"])
def test_a_path_always_means_a_folder(source: str | Path, namesake: Path) -> None:
    if isinstance(source, str):
        source = source.format(parent=namesake.parent.name)
    assert load_head(source).config.about == "mine"
    assert load_head(namesake).config.about == load_head(str(namesake)).config.about == "mine"


def test_a_name_that_is_also_a_folder_here_is_refused(namesake: Path) -> None:
    with pytest.raises(
        HeadError,
        match=rf"'{EMBEDDED}' is both a head that comes with AIS and a folder here: write \./{EMBEDDED} for",
    ) as caught:
        load_head(EMBEDDED)
    told = str(caught.value).partition(", or ")[2].partition(" for the one")[0]
    assert load_head(told).config.about.startswith("Photographs")  # what the sentence says works
    assert load_head("beauty-stack").config.name == "beauty-stack"


def test_a_path_that_is_no_folder_never_means_a_shipped_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (Path(EMBEDDED), f"./{EMBEDDED}"):
        with pytest.raises(HeadError, match="There is no head"):
            load_head(source)
    assert load_head(EMBEDDED).config.name == EMBEDDED
    (tmp_path / EMBEDDED).mkdir()  # nothing of a head in it
    assert load_head(EMBEDDED).config.name == EMBEDDED


def test_where_the_shipped_heads_lie_their_names_mean_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(heads_directory())
    assert load_head(EMBEDDED).config.name == EMBEDDED
