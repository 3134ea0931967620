from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ais.backbones import Features, FrozenBackbone
from ais.embeddings import cache_directory, embed
from ais.errors import DataError
from ais.images import read_image
from ais.views import View, ViewName
from conftest import TinyNetwork, randomise

MEAN = STD = (0.5, 0.5, 0.5)


class Counting(FrozenBackbone):
    """A small backbone that counts the pictures it is given, and can die on one."""

    seen = 0
    dies_after: int | None = None

    def view(self, name: ViewName = "crop") -> View:
        return View(name, 32, 36, "bilinear", MEAN, STD)

    def forward(self, pictures: Tensor) -> Features:
        if self.dies_after is not None and self.seen >= self.dies_after:
            raise KeyboardInterrupt
        self.seen += len(pictures)
        return super().forward(pictures)


def make_backbone(layer: str = "inner") -> Counting:
    torch.manual_seed(0)
    owner = range(12) if layer == "inner" else None
    return Counting(randomise(TinyNetwork()), "tiny", layer, owner)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """150 pictures of three shapes: three shards."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(150):
        size = [(40, 50), (50, 40), (40, 40)][i % 3]
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def shards() -> list[Path]:
    return sorted(cache_directory().rglob("*.safetensors"))


@pytest.mark.parametrize("view", ["crop", "whole"])
def test_equals_one_picture_at_a_time(files: list[Path], view: ViewName) -> None:
    backbone = make_backbone()
    found = embed(files, backbone, view)
    assert found.delta is not None
    for i in range(0, 150, 7):
        features = backbone(backbone.view(view).tensor(read_image(files[i]))[None])
        assert features.delta is not None
        torch.testing.assert_close(found.embedding[i], features.embedding[0])
        torch.testing.assert_close(found.delta[i], features.delta[0])


def test_second_pass_runs_no_network(files: list[Path]) -> None:
    first = make_backbone()
    calls: list[tuple[int, int]] = []
    before = embed(files, first, "whole", progress=lambda *call: calls.append(call))
    assert (first.seen, len(shards())) == (150, 3)
    assert calls[-1] == (150, 150)
    assert calls == sorted(set(calls))
    second = make_backbone()
    after = embed(files, second, "whole")
    assert second.seen == 0
    assert torch.equal(before.embedding, after.embedding)
    assert before.delta is not None
    assert after.delta is not None
    assert torch.equal(before.delta, after.delta)


def test_killed_in_the_middle_it_goes_on_there(files: list[Path]) -> None:
    whole = embed(files, make_backbone(), "whole", cache=False)
    assert not shards()
    dying = make_backbone()
    dying.dies_after = 100
    with pytest.raises(KeyboardInterrupt):
        embed(files, dying, "whole")
    assert len(shards()) == 1
    again = make_backbone()
    found = embed(files, again, "whole")
    assert again.seen == 150 - 64
    assert torch.equal(found.embedding, whole.embedding)


def test_a_write_that_dies_leaves_no_shard(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            embed(files, make_backbone(), "whole")
    assert [file for file in cache_directory().rglob("*") if file.is_file()] == []


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flip_last_byte, lambda data: data[:-9], lambda data: b"", lambda data: b"\0" * len(data)],
    ids=["flipped bit", "cut short", "empty", "zeros"],
)
def test_a_damaged_shard_is_computed_again(files: list[Path], damage: Callable[[bytes], bytes]) -> None:
    before = embed(files, make_backbone(), "whole")
    victim = max(shards(), key=lambda file: file.stat().st_size)
    victim.write_bytes(damage(victim.read_bytes()))
    again = make_backbone()
    after = embed(files, again, "whole")
    assert again.seen == 64
    assert torch.equal(before.embedding, after.embedding)
    last = make_backbone()
    embed(files, last, "whole")
    assert last.seen == 0


def test_pictures_are_known_by_content(files: list[Path], tmp_path: Path) -> None:
    before = embed(files, make_backbone(), "whole")
    twin = tmp_path / "another name.png"
    twin.write_bytes(files[3].read_bytes())
    again = make_backbone()
    mixed = embed([twin, *reversed(files), twin], again, "whole")
    assert again.seen == 0
    assert torch.equal(mixed.embedding[1:-1], before.embedding.flip(0))
    assert torch.equal(mixed.embedding[[0, -1]], before.embedding[[3, 3]])
    files[5].write_bytes(files[6].read_bytes() + b" ")
    embed(files, again, "whole")
    assert again.seen == 1


def test_settings_do_not_share_shards(files: list[Path]) -> None:
    backbone = make_backbone()
    embed(files[:3], backbone, "whole")
    embed(files[:3], backbone, "crop")
    assert backbone.seen == 6
    other = make_backbone()
    other.network.stem[0].weight[0] += 1  # type: ignore[index, operator, union-attr]
    embed(files[:3], other, "whole")
    assert other.seen == 3
    general = make_backbone("stem.0")
    assert embed(files[:3], general, "whole").delta is None
    assert general.seen == 3


def test_all_unreadable_pictures_are_named_and_the_others_kept(files: list[Path]) -> None:
    files[10].write_bytes(b"no picture")
    files[140].unlink()
    backbone = make_backbone()
    with pytest.raises(DataError, match="2 problems") as caught:
        embed(files, backbone, "whole")
    assert "10.png" in str(caught.value)
    assert "140.png" in str(caught.value)
    seen = backbone.seen
    embed(files[:10] + files[11:140] + files[141:], backbone, "whole")
    assert backbone.seen == seen == 148
