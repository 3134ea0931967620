"""Heads made to break things: whatever a folder holds, it gives a finite result or a sentence, soon."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

import ais
from ais.demo.values import facts
from ais.errors import AISError, HeadError
from ais.heads.config import BACKBONE, CARD, CONFIG, WEIGHTS
from ais.heads.loading import load_head, read_card
from ais.heads.regression import RegressionHead
from ais.publish.card import model_card
from helpers.heads import edit, make_head
from helpers.networks import add_backbone, save_tuned, tiny_network

SECONDS = 2.0  # at most for a folder, on a busy machine; a refusal takes milliseconds

FUZZED = 300


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        add_backbone(patch, tmp_path_factory.mktemp("torch"), "tiny12")
        yield


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tiny() -> RegressionHead:
    return make_head("tiny12", "inner", size=64, view="resize")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny().save(tmp_path / "head", card="# card\n")
    return tmp_path / "head"


def change_tensors(folder: Path, changes: Mapping[str, Callable[[torch.Tensor], object]]) -> None:
    """Other weights, with their right hash."""
    tensors = load_file(folder / WEIGHTS)
    for name, change in changes.items():
        change(tensors[name])
    write_weights(folder, save(tensors))


def write_weights(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, weights_sha256=hashlib.sha256(data).hexdigest())


def quickly(call: Callable[[], Any]) -> Any:
    """The call's result, which takes neither long nor much memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        return call()
    finally:
        assert time.perf_counter() - start < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


# What is no file, or not as large as it should be --------------------------------------------------------------


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2 << 30)


def _claims(file: Path) -> None:
    """A header that accounts for 1.5 GB of nothing."""
    size = 1_500_000_000
    header = json.dumps(
        {"weight1": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + size)


@pytest.mark.parametrize("make", [_pipe, _device, _sparse, _claims, Path.mkdir])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_what_is_no_file_of_a_head_is_refused_at_once(
    make: Callable[[Path], None], name: str, folder: Path, picture: Image.Image
) -> None:
    (folder / name).unlink()
    make(folder / name)
    if name == CARD:  # which no score depends on
        head = quickly(lambda: load_head(folder))
        assert quickly(lambda: read_card(head)) == ""
        return
    with pytest.raises(HeadError):
        quickly(lambda: ais.score(picture, folder))


@pytest.mark.parametrize("make", [_pipe, _device, _sparse, _claims, Path.mkdir])
def test_a_backbone_that_is_none_is_refused_at_once(
    make: Callable[[Path], None], tmp_path: Path, picture: Image.Image
) -> None:
    folder = save_tuned(tiny(), tiny_network(seed=1), tmp_path / "tuned")
    ais.score(picture, folder)
    (folder / BACKBONE).unlink()
    make(folder / BACKBONE)
    with pytest.raises(HeadError, match=r"backbone\.safetensors, the backbone of its head"):
        quickly(lambda: ais.score(picture, folder))


def test_a_link_to_a_file_is_a_file(folder: Path, picture: Image.Image) -> None:
    """As the Hub's cache has them."""
    for name in (CONFIG, WEIGHTS):
        (folder / name).rename(folder / f"blob of {name}")
        (folder / name).symlink_to(f"blob of {name}")
    assert math.isfinite(ais.score(picture, folder).score)


# Numbers that overflow -------------------------------------------------------------------------------------------

Change = Callable[[torch.Tensor], object]

HUGE: dict[str, dict[str, Change]] = {  # what is done to which tensors, in place
    "first layer": {"weight1": lambda t: t.mul_(1e37)},
    "second layer": {"weight2": lambda t: t.mul_(1e38 / t.abs().max())},
    "both": {"weight1": lambda t: t.mul_(1e25), "weight2": lambda t: t.mul_(1e25)},
    "one unit": {"weight1": lambda t: t[0, 0].fill_(3e38)},
    "bias": {"bias2": lambda t: t.fill_(3e38)},
    "deviation": {"rating_std": lambda t: t.fill_(3e38)},
    "mean": {"rating_mean": lambda t: t.fill_(3e38)},
    "cancelling": {"bias2": lambda t: t.fill_(3e38), "rating_mean": lambda t: t.fill_(-3e38)},
    "mean residual": {"mean_residual": lambda t: t.fill_(3e38)},
    "tiny": {"weight1": lambda t: t.mul_(1e-40), "weight2": lambda t: t.mul_(1e-40)},
    "zero": {"weight1": lambda t: t.zero_(), "rating_std": lambda t: t.zero_()},
    "flat quantiles": {"rating_quantiles": lambda t: t.fill_(4)},
    "huge quantiles": {"rating_quantiles": lambda t: t.copy_(torch.linspace(-1, 1, 101).sign() * 3e38)},
}


@pytest.mark.parametrize("what", HUGE)
def test_numbers_are_finite_or_there_is_a_sentence(what: str, folder: Path, picture: Image.Image) -> None:
    change_tensors(folder, HUGE[what])
    for method, kind in (
        *((method, "prediction") for method in ais.METHODS),
        ("ais", "dual"),
        ("ais", "mean_residual"),
    ):
        try:
            made = ais.explain(picture, folder, method, kind=kind, scale="points", rating=5)
        except HeadError as error:
            assert "no finite" in str(error) or "no sensible score" in str(error)  # noqa: PT017
            continue
        check_finite(made)
        assert ais.score(picture, folder).score == made.score


def check_finite(made: ais.Explanation) -> None:
    document = json.dumps(made.to_dict(), allow_nan=False)
    assert "score" in document
    low, high = made.interval
    lowest, highest = made.rating_range
    assert lowest <= low <= high <= highest
    assert 0 <= made.percentile <= 100
    assert np.isfinite(made.heatmap).all()


@pytest.mark.parametrize("mean", [500.0, -500.0])
def test_a_score_far_beyond_the_scale_is_refused(mean: float, folder: Path, picture: Image.Image) -> None:
    change_tensors(folder, {"rating_mean": lambda t: t.fill_(mean)})
    with pytest.raises(HeadError, match="on a scale of 1 to 7, which says nothing of a picture"):
        ais.score(picture, folder)


def test_a_wide_interval_ends_where_the_scale_does(folder: Path, picture: Image.Image) -> None:
    edit(folder, interval={"level": 0.9, "error": 9e8, "factor": 9e8})
    assert ais.score(picture, folder)[1:3] == (1.0, 7.0)
    edit(folder, target={"name": "beauty", "low": -9e8, "high": 9e8})
    assert ais.score(picture, folder)[1:3] == (-9e8, 9e8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("rating_quantiles", "rating_quantiles .* fall somewhere")],
)
def test_tensors_that_mean_nothing_are_refused(name: str, sentence: str, folder: Path) -> None:
    change_tensors(folder, {name: lambda t: t.mul_(-1)})
    with pytest.raises(HeadError, match=sentence):
        load_head(folder)


# Configs and headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pruned": [1, 1]}, "each once, in rising order"),
        ({"pruned": [3, 1]}, "each once, in rising order"),
        ({"name": "a\nb"}, "name should be a word"),
        ({"name": "\x1b[2J"}, "name should be a word"),
        ({"name": "x" * 300}, "that of a folder"),
        ({"name": "\ud800"}, "should be Unicode"),
        ({"recipe": {"command": "\udfff"}}, "should be Unicode"),
        ({"metrics": {"plcc": float("nan")}}, "NaN is no number"),
        ({"metrics": {"plcc": 10**400}}, "smaller than 1e300"),
        ({"recipe": json.loads("[" * 30 + "]" * 30)}, "levels deep"),
        ({"target": {"name": "a\x07", "low": 1, "high": 7}}, "control characters"),
        ({"target": {"name": "a", "low": False, "high": 7}}, "numbers"),
        ({"task": 3}, "task should be a word"),
        ({"task": ["rating"]}, "task should be a word"),
        ({"task": {"rating": 1}}, "task should be a word"),
        ({"task": None}, "task should be a word"),
        ({"task": ""}, "task should be a word"),
        ({"task": "rating\n"}, "task should be a word"),
        ({"task": "__proto__"}, "the task '__proto__', which this AIS does not have"),
        ({"task": "__class__"}, "needs a newer AIS"),
        ({"task": "r" * 100_000}, "needs a newer AIS"),
        ({"backbone_sha256": 5}, "backbone_sha256 should be 16 hexadecimal digits"),
        ({"backbone_sha256": ["0" * 16]}, "backbone_sha256 should be 16 hexadecimal digits"),
        ({"backbone_sha256": "0" * 17}, "backbone_sha256 should be 16 hexadecimal digits"),
        ({"backbone_sha256": "0" * 16 + "\n"}, "backbone_sha256 should be 16 hexadecimal digits"),
        ({"backbone_sha256": None}, "backbone_sha256 should be 16 hexadecimal digits"),
        ({"trained_on": [1]}, r"trained_on .* should be a whole number"),
        ({"trained_on": 1 << 27}, "lacks the tensor trained_on"),
        ({"trained_on": 1 << 28}, r"trained_on .* should be a whole number"),
        ({"view": "whole"}, "view should be crop or resize"),
        ({"view": ["crop"]}, "view should be crop or resize"),
        ({"name": "safe\u202egnp.exe"}, "name should be a word"),
        ({"name": "a\u2066b"}, "name should be a word"),
        ({"name": "a\u2028b"}, "name should be a word"),
        ({"backbone": "a\u200fb"}, "backbone should be a word"),
        ({"target": {"name": "a\u202eb", "low": 1, "high": 7}}, "control characters"),
        ({"license": "mit\u2067"}, "control characters"),
        ({"variants": 1 << 20, "hidden": 1 << 20, "dim": 1 << 20}, r"should be F32 \[1048576"),
    ],
)
def test_configs_that_nothing_could_show_are_refused(
    changes: dict[str, Any], sentence: str, folder: Path
) -> None:
    edit(folder, **changes)
    with pytest.raises(HeadError, match=sentence):
        quickly(lambda: load_head(folder))


def test_names_that_mean_something_elsewhere_are_names(folder: Path, tmp_path: Path) -> None:
    """As objects of JavaScript and Python have them: nothing is looked up by them but a head."""
    edit(folder, name="__proto__", **{"__proto__": {"task": "x"}, "constructor": 1})
    head = load_head(folder)
    assert head.config.name == "__proto__"
    assert json.loads(json.dumps(facts(head.config)))
    head.save(tmp_path / "again", model_card(head.config))
    assert load_head(tmp_path / "again").config == replace(
        head.config, weights_sha256=json.loads((tmp_path / "again" / CONFIG).read_text())["weights_sha256"]
    )


def _typical(size: int, **options: Any) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update(typical=torch.zeros(size, **options))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("typical"), "lacks the tensor typical"),
        (_typical(11), r"typical is F32 \[11\].*should be F32 \[12\]"),
        (_typical(0), r"typical is F32 \[0\]"),
        (_typical(12, dtype=torch.float64), "typical is F64"),
        (_typical(12, dtype=torch.int64), "typical is I64"),
        (lambda t: t["typical"].fill_(float("nan")), "typical .* not finite"),
        (lambda t: t.pop("mean_residual"), "lacks the tensor mean_residual"),
        (lambda t: t.update(mean_residual=torch.zeros(13)), r"mean_residual is F32 \[13\]"),
        (lambda t: t.update(alignment=t.pop("mean_residual")), "tensor that heads do not have: 'alignment'"),
        (lambda t: t.update(__x=torch.zeros(1)), "tensor that heads do not have: '__x'"),
        (lambda t: t.update(__metadata=torch.zeros(1)), "tensor that heads do not have: '__metadata'"),
        (lambda t: t.update(keep=torch.zeros(12)), "tensor that heads do not have: 'keep'"),
    ],
)
def test_tensors_of_format_2_are_checked(
    change: Callable[[dict[str, torch.Tensor]], object], sentence: str, folder: Path
) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    write_weights(folder, save(tensors))
    with pytest.raises(HeadError, match=sentence):
        quickly(lambda: load_head(folder))


def test_a_typical_embedding_of_any_size_harms_no_score(folder: Path, picture: Image.Image) -> None:
    expected = ais.score(picture, folder)
    change_tensors(folder, {"typical": lambda t: t.fill_(3e38)})
    assert ais.score(picture, folder) == expected


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000, "Infinity", "1" + "0" * 400])
def test_numbers_that_are_none_are_refused(number: str, folder: Path) -> None:
    text = (folder / CONFIG).read_text().replace('"error": 0.5', f'"error": {number}')
    (folder / CONFIG).write_text(text)
    with pytest.raises(HeadError):
        load_head(folder)


def test_a_key_that_is_there_twice_is_refused(folder: Path) -> None:
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('"hidden": 16', '"hidden": 16, "hidden": 16'))
    with pytest.raises(HeadError, match="twice"):
        load_head(folder)


def test_tensors_that_share_their_numbers_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["bias2"]["data_offsets"] = header["rating_quantiles"]["data_offsets"][:1] * 2
    header["bias2"]["data_offsets"][1] += 12
    for changed in (header, {**header, "bias2": {**header["bias2"], "data_offsets": [10**12, 10**12 + 12]}}):
        text = json.dumps(changed).encode()
        write_weights(folder, struct.pack("<Q", len(text)) + text + data[8 + length :])
        with pytest.raises(HeadError):
            load_head(folder)


# Anything ------------------------------------------------------------------------------------------------------------

_STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2,
        13,
        1 << 20,
        1 << 40,
        10**400,
        0.5,
        -0.0,
        1e-320,
        1e30,
        1e308,
        float("nan"),
        math.inf,
    ),
    *(
        "",
        "x",
        "..",
        "a/b",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "é" * 150,
        "efficientnet_lite0",
        "crop",
        "timm:resnet18",
    ),
    *(
        [],
        [0],
        [1, 0],
        [[]],
        {},
        {"x": {}},
        {"name": "y", "low": 0, "high": 1},
        [{"head": "x", "fingerprint": "y"}],
    ),
)


def _change_value(document: Any, chance: random.Random) -> Any:
    """One value somewhere in a JSON document becomes another, is doubled, or goes."""
    if isinstance(document, dict) and document and chance.random() < 0.9:
        key = chance.choice(sorted(document))
        if chance.random() < 0.1:
            return {name: value for name, value in document.items() if name != key}
        if chance.random() < 0.05:
            return document | {
                chance.choice(["members", "more", "__metadata__", "tuned_sha256"]): document[key]
            }
        return document | {key: _change_value(document[key], chance)}
    if isinstance(document, list) and document and chance.random() < 0.5:
        place = chance.randrange(len(document))
        return [*document[:place], _change_value(document[place], chance), *document[place + 1 :]]
    return chance.choice(_STRANGE)


def _change_bytes(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 4, 40])):
        place = chance.randrange(len(data) + 1)
        end = min(len(data), place + chance.choice([0, 1, 1, 8, 400]))
        data = data[:place] + chance.randbytes(chance.choice([0, 1, end - place, end - place])) + data[end:]
    return data


def _mutate(folder: Path, chance: random.Random) -> None:
    """Make a sound head's folder unsound, in one way or several; half of the time the checksum is put right."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        config, weights = folder / CONFIG, folder / WEIGHTS
        way = chance.randrange(8)
        if way <= 2 and config.is_file():
            try:
                document = _change_value(json.loads(config.read_bytes()), chance)
            except ValueError:
                continue
            config.write_text(json.dumps(document))
        elif way == 3 and config.is_file():
            config.write_bytes(_change_bytes(config.read_bytes(), chance))
        elif way == 4 and weights.is_file():
            weights.write_bytes(_change_bytes(weights.read_bytes(), chance))
        elif way == 5 and weights.is_file():
            data = weights.read_bytes()
            length = int.from_bytes(data[:8], "little")
            try:
                header = json.dumps(_change_value(json.loads(data[8 : 8 + length]), chance)).encode()
            except ValueError:
                continue
            weights.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
        elif way == 6 and weights.is_file():
            data = bytearray(weights.read_bytes())  # numbers of any size, with their sign
            for _ in range(chance.choice([1, 30])):
                place = chance.randrange(max(9, len(data) - 4)) // 4 * 4
                data[place : place + 4] = struct.pack(
                    "<f", chance.choice([3e38, -3e38, 1e20, 1e-42, 0, -1, math.inf])
                )
            weights.write_bytes(bytes(data))
        elif way == 7 and chance.random() < 0.3:
            chance.choice([config, weights]).unlink(missing_ok=True)
    if chance.random() < 0.5 and (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        try:
            document = json.loads((folder / CONFIG).read_bytes())
        except ValueError:
            return
        if isinstance(document, dict):
            document["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            (folder / CONFIG).write_text(json.dumps(document))


def test_fuzzed_folders_give_a_result_or_a_sentence(tmp_path: Path, picture: Image.Image) -> None:
    sound = tmp_path / "sound"
    tiny().save(sound)
    files = {name: (sound / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    results = 0
    for seed in range(FUZZED):
        folder = tmp_path / "fuzzed"
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        _mutate(folder, random.Random(seed))
        start = time.perf_counter()
        try:
            head = load_head(folder)
            for words in (model_card, facts):
                with contextlib.suppress(AISError):
                    words(head.config).encode()
            made = ais.explain(picture, head, scale="points")
            check_finite(made)
            made.save(tmp_path / "out", files=["explanation.json"])
            assert load_head(head.save(tmp_path / "saved")[0].parent).config.name == head.config.name
            results += 1
        except AISError as error:
            assert str(error).encode(errors="strict")  # noqa: PT017
        except BaseException as error:
            raise AssertionError(f"the head of seed {seed} gives {type(error).__name__}: {error}") from error
        assert time.perf_counter() - start < SECONDS, f"the head of seed {seed} takes too long"
    assert FUZZED / 20 < results < FUZZED / 2  # some get through, and most are refused
