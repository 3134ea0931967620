"""A head written by hand from docs/head-format.md alone, and what that page says against what AIS reads.

Nothing here uses AIS or safetensors to write a head, nor AIS to look at a picture or to reckon a score.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ais
from ais.backbones.loading import load_backbone
from ais.backbones.registry import BACKBONES
from ais.errors import HeadError
from ais.heads.config import HeadConfig, Interval, Member, StackConfig, Target
from ais.heads.format import read_config
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead

PAGE = (Path(__file__).parents[2] / "docs" / "head-format.md").read_text(encoding="utf-8")

Tensors = dict[str, np.ndarray]


def _found(pattern: str) -> str:
    match = re.search(pattern, PAGE, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


EXAMPLE = json.loads(_found(r"^```json\n(.*?)^```"))

PRUNED = list(range(0, 1280, 5))


# Writing a head as the page says -----------------------------------------------------------------------------


def safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file."""
    header, numbers = {}, b""
    for name, value in tensors.items():
        kind = {"f": "F32", "i": "I64"}[value.dtype.kind]
        data = value.astype({"F32": "<f4", "I64": "<i8"}[kind]).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(numbers), len(numbers) + len(data)],
        }
        numbers += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def write_folder(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Write the two files that every head has; the SHA-256 of the weights."""
    data = safetensors(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config | {"weights_sha256": sha256}), encoding="utf-8")
    return sha256


def some_tensors(config: dict[str, Any], seed: int = 0) -> Tensors:
    """Numbers for a head on one backbone: hidden units that are on and off, scores within the scale."""
    k, h, d, c = (config[name] for name in ("variants", "hidden", "dim", "channels"))
    random = np.random.default_rng(seed)
    return {
        "weight1": random.normal(0, 0.1, (k, h, d)).astype(np.float32),
        "bias1": random.normal(0, 0.3, (k, h)).astype(np.float32),
        "weight2": random.normal(0, 0.5, (k, h)).astype(np.float32),
        "bias2": random.normal(0, 0.3, k).astype(np.float32),
        "rating_mean": np.array(4.1, np.float32),
        "rating_std": np.array(1.3, np.float32),
        "mean_residual": np.zeros(c, np.float32),
        "typical": np.zeros(d, np.float32),
        "rating_quantiles": np.sort(random.uniform(1, 7, 101)).astype(np.float32),
    }


# Reading it as the page says ---------------------------------------------------------------------------------


def network_input(picture: Image.Image, config: dict[str, Any]) -> np.ndarray:
    """What EfficientNet-Lite0 sees of a picture, (1, 3, h, w)."""
    size, short = config["size"], min(picture.size)
    resize = round(256 * size / 224)
    if config["view"] == "resize":
        shape = tuple(size if side == short else math.floor(size * side / short) for side in picture.size)
        box = (0, 0, *picture.size)
    else:
        spans = []
        for length in picture.size:
            r = math.floor(resize * length / short)
            a = round((r - size) / 2)
            spans.append((a * length / r, (a + size) * length / r))
        shape, box = (size, size), (spans[0][0], spans[1][0], spans[0][1], spans[1][1])
    pixels = np.asarray(picture.resize(shape, Image.Resampling.BICUBIC, box=box), np.float32)
    return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]


def embedding(picture: Image.Image, config: dict[str, Any]) -> np.ndarray:
    """(D,), by the plain network, with its pruned maps set to 0."""
    network = load_backbone("efficientnet_lite0").network
    keep = torch.ones(config["channels"])
    keep[config.get("pruned", [])] = 0
    layer = network.get_submodule("conv_head")
    hook = layer.register_forward_hook(lambda module, args, maps: maps * keep[:, None, None])
    try:
        with torch.no_grad():
            return network(torch.from_numpy(network_input(picture, config)))[0].numpy()
    finally:
        hook.remove()


def variant_scores(tensors: Tensors, g: np.ndarray) -> np.ndarray:
    """(K,), in points."""
    h = np.maximum(np.einsum("khd,d->kh", tensors["weight1"], g) + tensors["bias1"], 0)
    standardised = (tensors["weight2"] * h).sum(1) + tensors["bias2"]
    return tensors["rating_mean"] + tensors["rating_std"] * standardised


def percentile(score: float, q: np.ndarray) -> float:
    above = [i for i in range(101) if q[i] >= score]
    if not above:
        return 100.0
    i = above[0]
    return 0.0 if i == 0 else i - 1 + (score - q[i - 1]) / (q[i] - q[i - 1])


def check_explanation(
    explanation: ais.Explanation, s: np.ndarray, config: dict[str, Any], quantiles: np.ndarray
) -> None:
    interval = config["interval"]
    score = float(s.mean())
    half = interval["factor"] * math.sqrt(interval["error"] ** 2 + ((s - score) ** 2).mean())
    assert explanation.score == pytest.approx(score, abs=1e-4)
    assert explanation.interval == pytest.approx((score - half, score + half), abs=1e-4)
    assert explanation.percentile == pytest.approx(percentile(score, quantiles), abs=0.01)
    assert np.abs(explanation.importance).max() > 1e-3


# The tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"view": "crop"}, {"pruned": PRUNED}], ids=["as it stands", "crop", "pruned"]
)
def test_a_head_made_by_someone_elses_hands_loads(
    tmp_path: Path, photograph: Image.Image, changes: dict[str, Any]
) -> None:
    config = EXAMPLE | changes
    tensors = some_tensors(config)
    write_folder(tmp_path / "by-hand", config, tensors)
    head = ais.load_head(tmp_path / "by-hand")
    assert isinstance(head, RegressionHead)
    assert head.config.name == "by-hand"
    explanation = ais.explain(photograph, head=str(tmp_path / "by-hand"))
    s = variant_scores(tensors, embedding(photograph, config))
    check_explanation(explanation, s, config, tensors["rating_quantiles"])


def test_a_stack_made_by_someone_elses_hands_loads(tmp_path: Path, photograph: Image.Image) -> None:
    members, s = [], np.zeros(EXAMPLE["variants"])
    weight = np.array([0.7, 0.4], np.float32)
    for m, pruned in enumerate(([], PRUNED)):
        config = EXAMPLE | {"name": f"member-{m}", "pruned": pruned}
        tensors = some_tensors(config, seed=m)
        sha256 = write_folder(tmp_path / f"member-{m}", config, tensors)
        line = f'["efficientnet_lite0", "conv_head", "whole", 224, {pruned}, "", "{sha256}"]'
        members.append({"head": f"member-{m}", "fingerprint": hashlib.sha256(line.encode()).hexdigest()})
        s += weight[m] * variant_scores(tensors, embedding(photograph, config))
    shared = {name: EXAMPLE[name] for name in ("format", "task", "variants", "target", "interval")}
    config = {"name": "stack-by-hand", "members": members, **shared}
    quantiles = np.linspace(1, 7, 101).astype(np.float32)
    write_folder(
        tmp_path / "stack-by-hand",
        config,
        {"weight": weight, "intercept": np.array(-0.6, np.float32), "rating_quantiles": quantiles},
    )
    head = ais.load_head(tmp_path / "stack-by-hand")
    assert isinstance(head, StackedHead)
    explanation = ais.explain(photograph, head=str(tmp_path / "stack-by-hand"))
    check_explanation(explanation, s - 0.6, config, quantiles)


def test_pictures_it_has_seen_are_known_by_the_page(tmp_path: Path, photograph: Image.Image) -> None:
    file = tmp_path / "photograph.png"
    photograph.save(file)
    sha256 = hashlib.sha256(file.read_bytes())
    (key,) = struct.unpack(">q", sha256.digest()[:8])
    config = EXAMPLE | {"trained_on": 3}
    keys = np.array([-1, -(2**63), key], np.int64)
    write_folder(tmp_path / "by-hand", config, some_tensors(config) | {"trained_on": keys})
    head = ais.load_head(tmp_path / "by-hand")
    others = ["f" * 16 + "0" * 48, "8" + "0" * 63, "0" * 64]
    assert head.was_trained_on([sha256.hexdigest(), *others]) == [True, True, True, False]


def test_unknown_fields_are_taken_as_the_page_says(tmp_path: Path) -> None:
    tensors = some_tensors(EXAMPLE)
    write_folder(tmp_path / "more", EXAMPLE | {"colour": "blue"}, tensors)
    assert ais.load_head(tmp_path / "more").config.name == "by-hand"
    write_folder(tmp_path / "inside", EXAMPLE | {"target": EXAMPLE["target"] | {"colour": "blue"}}, tensors)
    with pytest.raises(HeadError, match="colour"):
        ais.load_head(tmp_path / "inside")
    write_folder(tmp_path / "newer", EXAMPLE | {"format": 3}, tensors)
    with pytest.raises(HeadError, match="format 3, newer"):
        ais.load_head(tmp_path / "newer")


@pytest.mark.parametrize("stated", [{"format": 1}, {}], ids=["stated", "by default"])
def test_a_head_of_format_1_loads(tmp_path: Path, photograph: Image.Image, stated: dict[str, int]) -> None:
    """With the names of then, whatever the fields of format 2 would say; saved again, it is of format 2."""
    table = PAGE[PAGE.index("## Format 1") :]
    for new, old in (("trained_on", "seen"), ("mean_residual", "alignment")):
        assert f"| tensor `{new}` | tensor `{old}` |" in table
    config = {key: value for key, value in EXAMPLE.items() if key not in ("format", "task")} | stated
    config |= {"view": "whole", "seen": 2, "task": "another", "trained_on": 7, "backbone_sha256": "0" * 16}
    tensors = some_tensors(EXAMPLE)
    residual = np.linspace(-1, 1, 1280).astype(np.float32)
    then = {name: value for name, value in tensors.items() if name not in ("typical", "mean_residual")}
    then |= {"alignment": residual, "seen": np.array([5, -6], np.int64)}
    write_folder(tmp_path / "old", config, then)
    head = ais.load_head(tmp_path / "old")
    assert isinstance(head, RegressionHead)
    assert (head.config.format, head.config.task, head.config.backbone_sha256) == (1, "rating", "")
    assert head.trained_on.tolist() == [5, -6]
    assert head.mean_residual.tolist() == residual.tolist()
    assert head.typical.shape == (1280,)
    assert not head.typical.any()
    s = variant_scores(tensors, embedding(photograph, EXAMPLE))
    check_explanation(ais.explain(photograph, tmp_path / "old"), s, EXAMPLE, tensors["rating_quantiles"])
    head.save(tmp_path / "new")
    again = ais.load_head(tmp_path / "new")
    assert (again.config.format, again.config.trained_on) == (2, 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("view", ["crop", "resize"])
@pytest.mark.parametrize("size", [64, 320])
def test_a_head_of_another_size(size: int, view: str, tmp_path: Path, photograph: Image.Image) -> None:
    config, tensors = EXAMPLE | {"view": view, "size": size}, some_tensors(EXAMPLE)
    write_folder(tmp_path / "head", config, tensors)
    s = variant_scores(tensors, embedding(photograph, config))
    result = ais.explain(photograph, tmp_path / "head")
    check_explanation(result, s, config, tensors["rating_quantiles"])
    assert result.backbone == f"efficientnet_lite0 at {size} px"


@pytest.mark.parametrize("size", [65, 225, 32, 672, 1 << 20])
def test_a_size_that_cannot_be_is_refused(size: int, tmp_path: Path) -> None:
    """Before its backbone is asked for, so that a list of heads does not offer it."""
    write_folder(tmp_path / "odd", EXAMPLE | {"size": size}, some_tensors(EXAMPLE))
    sentence = (
        f"does not fit its backbone efficientnet_lite0: A size of {size} pixels cannot be used: choose 224"
    )
    with pytest.raises(HeadError, match=sentence):
        read_config(tmp_path / "odd")
    with pytest.raises(HeadError, match=sentence):
        ais.load_head(tmp_path / "odd")


def test_a_size_is_left_to_a_backbone_that_is_unknown_here(tmp_path: Path, photograph: Image.Image) -> None:
    config = EXAMPLE | {"backbone": "of_a_newer_ais", "size": 225}
    write_folder(tmp_path / "new", config, some_tensors(EXAMPLE))
    assert ais.load_head(tmp_path / "new").config.size == 225
    with pytest.raises(HeadError, match="wants a backbone that this AIS does not know"):
        ais.explain(photograph, tmp_path / "new")


def test_a_size_of_a_network_of_timms_is_refused_when_it_is_used(
    tmp_path: Path, photograph: Image.Image
) -> None:
    config = EXAMPLE | {"backbone": "timm:resnet18", "size": 225}
    write_folder(tmp_path / "timms", config, some_tensors(EXAMPLE))
    with pytest.raises(HeadError, match=r"does not fit its backbone timm:resnet18\. A size of 225 pixels"):
        ais.explain(photograph, tmp_path / "timms")


def test_the_weights_hash_is_what_the_page_says() -> None:
    backbone = load_backbone("efficientnet_lite0")
    digest = hashlib.sha256()
    for name, value in backbone.network.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    assert backbone.sha256 == digest.hexdigest()[:16]


def test_every_field_of_the_example_is_required(tmp_path: Path) -> None:
    """The page calls it the smallest; without `format` it would be of format 1."""
    assert EXAMPLE.keys() - {"format"} == {
        name
        for name in _rows("### Fields of every head", "### Fields of a stack", "required")
        if "." not in name
    }
    for number, name in enumerate(sorted(EXAMPLE.keys() - {"format", "weights_sha256"})):
        config = {key: value for key, value in EXAMPLE.items() if key != name}
        write_folder(tmp_path / str(number), config, some_tensors(EXAMPLE))
        with pytest.raises(HeadError, match=name):
            ais.load_head(tmp_path / str(number))


def _rows(start: str, end: str, containing: str = "") -> set[str]:
    """What the tables between two headings have in their first column."""
    section = PAGE[PAGE.index(start) : PAGE.index(end)]
    return set(re.findall(rf"^\| `([^`]+)` \|.*{containing}", section, re.MULTILINE))


def test_the_page_has_every_field_and_no_other() -> None:
    nested = {"target": Target, "interval": Interval, "members": Member}
    wanted = {f.name for kind in (HeadConfig, StackConfig) for f in fields(kind)}
    wanted |= {f"{name}.{f.name}" for name, kind in nested.items() for f in fields(kind)}
    assert _rows("### Fields of every head", "### Metrics and recipe") == wanted


def test_the_page_has_every_tensor_with_its_shape_and_no_other() -> None:
    common = {
        "name": "n",
        "variants": 11,
        "trained_on": 13,
        "target": Target("t", 0, 1),
        "interval": Interval(0.9, 1, 1),
    }
    head = HeadConfig(
        backbone="b", layer="l", view="resize", size=1, dim=17, channels=19, hidden=23, **common
    )
    stack = StackConfig(members=[Member("a", "")] * 7, **common)
    letters = {"S": 13, "K": 11, "D": 17, "C": 19, "H": 23, "M": 7, "101": 101}
    told = {}
    for name, where, dtype, shape in re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| (F32|I64) \| \(([^)]*)\) \|", PAGE, re.MULTILINE
    ):
        told[name] = (where, dtype, tuple(letters[part.strip()] for part in shape.split(",") if part.strip()))
    for config, kind in ((head, "one backbone"), (stack, "stack")):
        here = {name: shape for name, (where, _, shape) in told.items() if where[:4] in ("both", kind[:4])}
        assert here == config.shapes()
    assert {name for name, (_, dtype, _) in told.items() if dtype == "I64"} == {"trained_on"}


def test_the_worked_fingerprint_is_right() -> None:
    line, printed = _found(r'^    (\["efficientnet[^\n]*\])$'), _found(r"^    ([0-9a-f]{64})$")
    assert hashlib.sha256(line.encode()).hexdigest() == printed
    backbone, layer, view, size, pruned, tuned, weights = json.loads(line)
    config = HeadConfig(
        name="n",
        variants=1,
        target=Target("t", 0, 1),
        interval=Interval(0.9, 1, 1),
        weights_sha256=weights,
        tuned_sha256=tuned,
        backbone=backbone,
        layer=layer,
        view={"whole": "resize"}[view],  # its old name, which fingerprints keep
        size=size,
        dim=1280,
        channels=1280,
        hidden=1,
        pruned=pruned,
    )
    assert config.fingerprint == printed


def test_the_page_says_how_each_backbone_sees() -> None:
    same = {
        "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "0.5, 0.5": ((0.5,) * 3, (0.5,) * 3),
    }
    row = r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\w+) \| ([^|]+) \| (\d+) \| [^|]+ \| `([\w.]+)` \|$"
    told = {
        name: (int(size), int(resize), filter_, *same[numbers], int(dim), layer)
        for name, size, resize, filter_, numbers, dim, layer in re.findall(row, PAGE, re.MULTILINE)
    }
    assert told == {
        name: (spec.size, spec.resize_to, spec.interpolation, spec.mean, spec.std, len(maps), spec.layer)
        for name, spec in BACKBONES.items()
        if (maps := spec.target_layers[spec.layer]) is not None
    }
