from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ais.backbones.embeddings import NamedBytes, cache_directory, embed, embed_each
from ais.errors import DataError
from ais.images.preprocessing import ViewName
from ais.images.reading import read_image
from helpers.networks import make_backbone


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


@pytest.mark.parametrize("view", ["crop", "resize"])
def test_equals_one_picture_at_a_time(files: list[Path], view: ViewName) -> None:
    backbone = make_backbone(view=view)
    found = embed(files, backbone)
    assert found.delta is not None
    for i in range(0, 150, 7):
        features = backbone(read_image(files[i]))
        assert features.delta is not None
        torch.testing.assert_close(found.embedding[i], features.embedding[0])
        torch.testing.assert_close(found.delta[i], features.delta[0])


def test_second_pass_runs_no_network(files: list[Path]) -> None:
    first = make_backbone()
    calls: list[tuple[int, int]] = []
    before = embed(files, first, progress=lambda *call: calls.append(call))
    assert (first.seen, len(shards())) == (150, 3)
    assert calls[-1] == (150, 150)
    assert calls == sorted(set(calls))
    second = make_backbone()
    after = embed(files, second)
    assert second.seen == 0
    assert torch.equal(before.embedding, after.embedding)
    assert before.delta is not None
    assert after.delta is not None
    assert torch.equal(before.delta, after.delta)


def test_killed_in_the_middle_it_goes_on_there(files: list[Path]) -> None:
    whole = embed(files, make_backbone(), cache=False)
    assert not shards()
    dying = make_backbone()
    dying.dies_after = 100
    with pytest.raises(KeyboardInterrupt):
        embed(files, dying)
    assert dying.seen >= 100
    again = make_backbone()
    found = embed(files, again)
    assert again.seen == 150 - dying.seen
    assert torch.equal(found.embedding, whole.embedding)


def test_a_write_that_dies_leaves_no_shard(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            embed(files, make_backbone())
    assert [file for file in cache_directory().rglob("*") if file.is_file()] == []


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flip_last_byte, lambda data: data[:-9], lambda data: b"", lambda data: b"\0" * len(data)],
    ids=["flipped bit", "cut short", "empty", "zeros"],
)
def test_a_damaged_shard_is_computed_again(files: list[Path], damage: Callable[[bytes], bytes]) -> None:
    before = embed(files, make_backbone())
    victim = max(shards(), key=lambda file: file.stat().st_size)
    victim.write_bytes(damage(victim.read_bytes()))
    again = make_backbone()
    after = embed(files, again)
    assert again.seen == 64
    assert torch.equal(before.embedding, after.embedding)
    last = make_backbone()
    embed(files, last)
    assert last.seen == 0


def test_pictures_are_known_by_content(files: list[Path], tmp_path: Path) -> None:
    before = embed(files, make_backbone())
    twin = tmp_path / "another name.png"
    twin.write_bytes(files[3].read_bytes())
    again = make_backbone()
    mixed = embed([twin, *reversed(files), twin], again)
    assert again.seen == 0
    assert torch.equal(mixed.embedding[1:-1], before.embedding.flip(0))
    assert torch.equal(mixed.embedding[[0, -1]], before.embedding[[3, 3]])
    files[5].write_bytes(files[6].read_bytes() + b" ")
    embed(files, again)
    assert again.seen == 1


def test_settings_do_not_share_shards(files: list[Path]) -> None:
    backbone = make_backbone()
    embed(files[:3], backbone)
    cropped = make_backbone(view="crop")
    embed(files[:3], cropped)
    assert backbone.seen == cropped.seen == 3
    other = make_backbone()
    other.network.stem[0].weight[0] += 1  # type: ignore[index, operator, union-attr]
    embed(files[:3], other)
    assert other.seen == 3
    for view in ("crop", "resize"):
        for size in (64, 96):
            larger = backbone.with_preprocessing(view, size)
            larger.seen = 0
            found = embed(files[:3], larger)
            assert larger.seen == 3
            assert torch.equal(found.embedding, embed(files[:3], larger.with_preprocessing()).embedding)
            assert larger.seen == 3
    general = make_backbone("stem.0")
    assert embed(files[:3], general).delta is None
    assert general.seen == 3


def test_all_unreadable_pictures_are_named_and_the_others_kept(files: list[Path]) -> None:
    files[10].write_bytes(b"no picture")
    files[140].unlink()
    backbone = make_backbone()
    with pytest.raises(DataError, match="2 problems") as caught:
        embed(files, backbone)
    assert "10.png" in str(caught.value)
    assert "140.png" in str(caught.value)
    seen = backbone.seen
    embed(files[:10] + files[11:140] + files[141:], backbone)
    assert backbone.seen == seen == 148


def test_each_picture_as_soon_as_it_is_known(files: list[Path]) -> None:
    """In order, decoded once for several networks; one that cannot be read gives its sentence."""
    files[10].write_bytes(b"no picture")
    networks = [make_backbone(), make_backbone("stem.0", "crop")]
    known = NamedBytes(files[3].read_bytes(), "standard input")
    found = []
    for embedded in embed_each([*files, known], networks):  # type: ignore[arg-type]
        found.append(embedded)
        assert networks[0].seen <= len(found) + 32  # not all of them first
    assert [number for number, embedded in enumerate(found) if embedded.problem] == [10]
    assert "10.png" in found[10].problem
    for number, backbone in enumerate(networks):
        expected = embed([*files[:10], *files[11:]], backbone).embedding  # type: ignore[arg-type]
        rows = torch.stack([one.rows[number]["embedding"] for one in found[:-1] if one.rows])
        assert torch.equal(rows, expected)
    assert torch.equal(found[-1].rows[0]["embedding"], found[3].rows[0]["embedding"])
    assert networks[0].seen == 149


def test_stopped_by_its_reader_it_has_kept_what_was_computed(files: list[Path]) -> None:
    backbone = make_backbone()
    for number, _ in enumerate(embed_each(files, [backbone])):
        if number == 40:
            break
    again = make_backbone()
    embed(files, again)
    assert again.seen == 150 - backbone.seen < 110


@pytest.mark.parametrize("place", ["/proc/nothere", "/dev/null/cache", None])
def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    place: str | None, files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = embed(files[:70], make_backbone(), cache=False).embedding
    if place is None:  # nor a home

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("AIS_CACHE")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setenv("AIS_CACHE", place)
    with caplog.at_level("WARNING", "ais"):
        assert torch.equal(embed(files[:70], make_backbone()).embedding, expected)
    assert caplog.text.count("not kept for the next run") == 1
