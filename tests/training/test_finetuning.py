"""FineTuneConfig a backbone: blocks and rates, what stays as it was, and one epoch against plain torch."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import random_backbone
from ais.backbones.registry import BACKBONES
from ais.data.ratings import RatedSet
from ais.errors import AISError, DataError
from ais.images.augmentation import augment
from ais.images.preprocessing import Preprocessing
from ais.images.reading import read_image
from ais.progress import StageProgress
from ais.training.finetuning import FineTuned, fine_tune, range_test, validation_mask
from ais.training.loader import ImageLoader
from ais.training.mlp import Variants, fit_variants
from ais.training.plan import FitContext, Plan, sample_weight
from ais.training.recipe import Recipe
from ais.training.strategies import (
    STRATEGIES,
    FineTuneConfig,
    Strategy,
    blocks,
    get_strategy,
    parameter_groups,
)
from helpers.networks import TinyNetwork, randomise

PREPROCESSING = Preprocessing("resize", 32, 36, "bilinear", (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))

# A head with much to learn still.
SMALL = Recipe(components=12, hidden=8, learning_rate=1e-3, epochs=3, batch=16)

TUNING = FineTuneConfig(learning_rate=3e-3, epochs=3, last_k=1)

TUNED = [name for name, strategy in STRATEGIES.items() if strategy.trains != "nothing"]

PRETRAINED = [name for name in TUNED if STRATEGIES[name].pretrained]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 noisy pictures of two shapes with stripes across or down, which a random network hardly tells."""
    path = tmp_path_factory.mktemp("striped")
    rng = np.random.default_rng(0)
    for i in range(48):
        height, width = [(32, 40), (40, 32)][i % 2]
        wave = 90 * np.sin(np.arange(48) * 1.3 + rng.uniform(0, 6))
        stripes = wave[:height, None] if i % 4 < 2 else wave[None, :width]
        pixels = 128 + rng.uniform(0.2, 1) * stripes[..., None] + rng.normal(0, 30, (height, width, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path / f"{i:02}.png")
    return path


@pytest.fixture
def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


RATINGS = np.array([3.0 if i % 4 < 2 else 5.0 for i in range(48)])

RATINGS += np.random.default_rng(1).normal(0, 0.1, 48)

GROUPS = [f"group {i // 4}" for i in range(48)]


def network(*, double: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = randomise(TinyNetwork()).eval()
    return made.double() if double else made


def embedded(net: nn.Module, files: list[Path]) -> Tensor:
    dtype = next(net.parameters()).dtype
    with torch.no_grad():
        return torch.cat([net(PREPROCESSING(read_image(file))[None].to(dtype)) for file in files])


def fitted(net: nn.Module, files: list[Path], tuning: FineTuneConfig = TUNING, seed: int = 0) -> Variants:
    """Two heads that have not seen the pictures that say when to stop."""
    rows = np.flatnonzero(~validation_mask(GROUPS, Plan(tuning=tuning, seed=seed)))
    x = embedded(net, [files[i] for i in rows])
    return fit_variants(x, RATINGS[rows], [GROUPS[i] for i in rows], variants=2, recipe=SMALL)


def rated(files: list[Path], **changed: Any) -> RatedSet:
    fields = {"ratings": RATINGS, "sd": None, "n": None, "groups": GROUPS} | changed
    return RatedSet(files[0].parent, "rating", files, **fields)


def context(net: nn.Module, progress: StageProgress | None = None, **plan: Any) -> FitContext:
    """Two heads of eight units; the network may be changed afterwards without effect."""
    backbone = FrozenBackbone(copy.deepcopy(net), "tiny", "inner", PREPROCESSING)
    return FitContext(backbone, Plan(**{"variants": 2, "recipe": SMALL, "tuning": TUNING} | plan), progress)


def tune(files: list[Path], strategy: str, tuning: FineTuneConfig = TUNING, **other: Any) -> FineTuned:
    net = other.pop("net", None) or network()
    fit = fitted(net, files, tuning) if STRATEGIES[strategy].head_first else None
    start = other.pop("start", fit)
    return fine_tune(rated(files), context(net, strategy=strategy, tuning=tuning, **other), start)


def predict(found: Variants, x: Tensor) -> Tensor:
    """Standardised ratings by each variant, (N, K)."""
    hidden = torch.einsum("nd,khd->nkh", x, found.weight1.to(x)) + found.bias1.to(x)
    return (hidden.relu() * found.weight2.to(x)).sum(2) + found.bias2.to(x)


def loss(found: Variants, x: Tensor, rows: np.ndarray, weights: np.ndarray | None = None) -> float:
    truth = (RATINGS[rows] - found.rating_mean) / found.rating_std
    errors = (predict(found, x).double().numpy() - truth[:, None]) ** 2
    return float(np.average(errors.mean(1), weights=None if weights is None else weights[rows]))


def reloaded(tuned: FineTuned) -> nn.Module:
    net = network()
    net.load_state_dict(tuned.state)
    return net


def owners(net: nn.Module, names: list[str]) -> list[str]:
    """The parameters of a block, by name."""
    inside = [net.get_submodule(name) for name in names]
    named = {id(parameter): name for name, parameter in net.named_parameters()}
    return [named[id(p)] for module in inside for p in module.parameters(recurse=False)]


def timm_network(name: str) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = timm.create_model(name, num_classes=0)
    return made


@pytest.mark.parametrize("name", [*BACKBONES, "convnext_atto", "vit_tiny_patch16_224", "regnety_002"])
def test_blocks_hold_every_parameter_once_in_forward_order(name: str) -> None:
    """The order is the one in which the modules are run."""
    net = bare(name) if name in BACKBONES else timm_network(name)
    net.eval()
    parts = blocks(net)
    found = [parameter for names in parts for parameter in owners(net, names)]
    assert sorted(found) == sorted(name for name, _ in net.named_parameters())
    block_of = {name: i for i, names in enumerate(parts) for name in names}
    seen: list[int] = []
    hooks = [
        module.register_forward_hook(lambda *_, i=block_of[name]: seen.append(i))
        for name, module in net.named_modules()
        if name in block_of and name  # the whole network ends last, though what it holds is used first
    ]
    with torch.no_grad():
        net(torch.empty(1, 3, 224, 224, device="meta"))
    for hook in hooks:
        hook.remove()
    assert seen == sorted(seen)
    unused = {"AuxLogits" in "".join(names) for i, names in enumerate(parts) if i not in seen}
    assert unused <= {True}


def bare(name: str) -> nn.Module:
    """A network of the registry, without values."""
    with torch.device("meta"):
        net = BACKBONES[name].build()
    setattr(net, BACKBONES[name].classifier, nn.Identity())
    return net


def test_blocks_are_those_of_the_architecture() -> None:
    # Convolutions; stem and residual blocks; stem, dense layers and transitions; stem, blocks, last convolution.
    expected = {
        "vgg16": 13,
        "barlow_twins": 1 + 16,
        "densenet161": 1 + 78 + 3,
        "efficientnet_lite0": 1 + 16 + 1,
    }
    assert {name: len(blocks(bare(name))) for name in expected} == expected
    assert blocks(network()) == [["stem.0", "stem.1"], ["inner"], ["skip", "norm"]]


def test_a_lone_batchnorm_belongs_to_the_convolution_before_it() -> None:
    parts = blocks(bare("densenet161"))
    assert parts[0] == ["features.conv0", "features.norm0"]
    assert parts[-1][-2:] == ["features.denseblock4.denselayer24.conv2", "features.norm5"]


class Spy(torch.optim.AdamW):
    made: ClassVar[list[Spy]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made.append(self)


@pytest.mark.parametrize("strategy", TUNED)
def test_the_optimiser_has_the_rates_of_the_strategy(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr(Spy, "made", [])
    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    tuning = replace(TUNING, learning_rate=1e-4, layer_decay=0.5, epochs=1)
    rates = []

    def groups() -> list[dict[str, Any]]:
        return Spy.made[-1].param_groups  # before it, the one that fitted the start

    tune(files, strategy, tuning, progress=lambda *_: rates.append(groups()[0]["lr"]))
    assert [g["initial_lr"] for g in groups()] == {
        "head-then-all": [1e-4, 1e-4, 1e-4, 1e-4],
        "layerwise": [1e-4, 1e-4, 0.5e-4, 0.25e-4],
        "last-k": [1e-4, 1e-4],
        "scratch": [1e-4, 1e-4, 1e-4, 1e-4],
    }[strategy]
    # Along a half cosine: after half of the steps half of it, after all nothing.
    assert [rate / groups()[0]["initial_lr"] for rate in rates] == pytest.approx([0.75, 0.25, 0], abs=1e-9)
    shapes = [[tuple(p.shape) for p in g["params"]] for g in groups()]
    assert shapes[0] == [(2, 8, 12), (2, 8), (2, 8), (2,)]
    norm = [(12,), (12,)] if strategy == "scratch" else []
    assert shapes[1] == [(12, 8, 1, 1), (12,), *norm]


def test_what_has_learnt_already_goes_on_several_times_more_slowly() -> None:
    for name in PRETRAINED:
        assert 2 <= STRATEGIES["scratch"].learning_rate / STRATEGIES[name].learning_rate <= 10
        last = parameter_groups(network(), STRATEGIES[name], FineTuneConfig(last_k=1))[0]
        assert last["lr"] == STRATEGIES[name].learning_rate


def test_groups_of_a_large_network_fall_geometrically() -> None:
    net = timm_network("resnet18")
    groups = parameter_groups(
        net, STRATEGIES["layerwise"], FineTuneConfig(learning_rate=1.0, layer_decay=0.9)
    )
    assert [g["lr"] for g in groups] == pytest.approx([0.9**i for i in range(9)])
    assert {id(p) for p in groups[-1]["params"]} == {id(net.conv1.weight)}  # type: ignore[union-attr]
    with pytest.raises(AISError, match="last 10 blocks cannot be trained: this backbone has 9"):
        parameter_groups(net, STRATEGIES["last-k"], FineTuneConfig(last_k=10))


@pytest.mark.parametrize("strategy", TUNED)
def test_what_does_not_learn_is_bitwise_the_same(files: list[Path], strategy: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    start = fitted(net, files) if STRATEGIES[strategy].head_first else None
    copied = copy.deepcopy(start)
    given = context(net, strategy=strategy)
    tuned = fine_tune(rated(files), given, start)
    if start is not None and copied is not None:
        for name in ("weight1", "bias1", "weight2", "bias2"):
            assert torch.equal(getattr(start, name), getattr(copied, name))
            assert not torch.equal(getattr(start, name), getattr(tuned.variants, name))
    assert net.state_dict().keys() == tuned.state.keys()
    kept = given.backbone.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert tuned.variants.epochs[0] > 0
    changed = {name for name, value in tuned.state.items() if not torch.equal(value, before[name])}
    convolutions = {f"{name}.{what}" for name in ("stem.0", "inner", "skip") for what in ("weight", "bias")}
    if strategy == "last-k":
        assert changed == {"skip.weight", "skip.bias"}
    elif strategy == "scratch":
        assert changed == set(before)
    else:
        assert changed == convolutions


class Strict(TinyNetwork):
    """As InceptionV3, which in training also gives what its side branch says."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return super().forward(x)


@pytest.mark.parametrize("strategy", TUNED)
def test_nothing_but_batchnorm_is_ever_in_training(files: list[Path], strategy: str) -> None:
    net = Strict().eval()
    seen = []
    net.norm.register_forward_hook(lambda module, *_: seen.append(module.training))
    tune(files, strategy, net=net)
    assert any(seen) == (strategy == "scratch")
    assert not net.norm.training


@pytest.mark.parametrize("strategy", PRETRAINED)
def test_one_epoch_equals_plain_torch_one_picture_at_a_time(files: list[Path], strategy: str) -> None:
    """The oracle, in float64: two shapes in every batch, ratings that count more or less."""
    net, chosen = network(double=True), STRATEGIES[strategy]
    data = rated(files, sd=np.linspace(0.1, 3, 48), n=np.full(48, 9.0))
    weights = sample_weight(data)
    assert weights.max() > 2 * weights.min()
    tuning = replace(TUNING, epochs=2, patience=2, batch=48, augment=False)
    start = fitted(net, files, tuning)
    tuned = fine_tune(data, context(net, strategy=strategy, tuning=tuning, weighted=True), start)
    held_out = validation_mask(GROUPS, Plan(tuning=tuning))
    rows, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    oracle = copy.deepcopy(net)
    x = embedded(net, [files[i] for i in rows])
    mean, scale = x.mean(0), (x - x.mean(0)).square().mean().sqrt()
    heads = [
        nn.ParameterList([start.weight1[k].double() * scale, start.bias1[k] + start.weight1[k].double() @ mean,
                          start.weight2[k].double(), start.bias2[k].double()])
        for k in range(2)
    ]  # fmt: skip

    def outputs(i: int) -> Tensor:
        z = (oracle(PREPROCESSING(read_image(files[i]))[None].double())[0] - mean) / scale
        return torch.stack([((w1 @ z + b1).relu() * w2).sum() + b2 for w1, b1, w2, b2 in heads])

    groups = parameter_groups(oracle, chosen, tuning)
    optimizer = torch.optim.AdamW(
        [{"params": [p for head in heads for p in head], "lr": tuning.learning_rate}, *groups],
        weight_decay=tuning.weight_decay,
    )
    truth = (RATINGS - start.rating_mean) / start.rating_std
    losses = []
    for step in range(2):
        for group in optimizer.param_groups:
            group["lr"] *= 0.5 if step else 1  # half a cosine of two steps
        optimizer.zero_grad()
        errors = [(outputs(i) - truth[i]).square() * weights[i] / weights.mean() for i in rows]
        losses.append((sum(errors) / len(rows)).detach().numpy())
        (sum(errors).mean() / len(rows)).backward()
        optimizer.step()
    np.testing.assert_allclose(tuned.variants.curves[:, :, 0], np.stack(losses, 1), rtol=1e-6)
    assert tuned.variants.epochs == [2, 2]
    for name, value in oracle.state_dict().items():
        torch.testing.assert_close(tuned.state[name], value, rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        expected = torch.stack([outputs(i) for i in held])
    found = predict(tuned.variants, embedded(oracle, [files[i] for i in held]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # the head is stored in float32
    assert tuned.after == pytest.approx(
        np.average(((expected.numpy() - truth[held, None]) ** 2).mean(1), weights=weights[held])
    )
    assert tuned.after == pytest.approx(tuned.variants.curves[:, 1, 1].mean())


def test_same_seed_same_bytes_and_no_global_state(files: list[Path]) -> None:
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = tune(files, "layerwise")
    net = network()  # draws from torch's generator
    state = torch.get_rng_state()
    first = tune(files, "layerwise", net=net)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    torch.manual_seed(99)
    second = tune(files, "layerwise")
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())
    assert torch.equal(first.variants.weight1, second.variants.weight1)
    np.testing.assert_array_equal(first.variants.curves, second.variants.curves)
    plain = tune(files, "layerwise", replace(TUNING, augment=False))
    assert not np.array_equal(plain.variants.curves, first.variants.curves)


@pytest.mark.parametrize("strategy", ["head-then-all", "layerwise", "scratch"])
def test_tuning_teaches_what_the_backbone_does_not_see(files: list[Path], strategy: str) -> None:
    tuning = replace(TUNING, learning_rate=1e-2, epochs=15, patience=15, batch=8, validation=0.25)
    tuned = tune(files, strategy, tuning)
    held = np.flatnonzero(validation_mask(GROUPS, Plan(tuning=tuning)))
    assert tuned.before > 0.5
    assert tuned.after < 0.5 * tuned.before
    x = embedded(reloaded(tuned), [files[i] for i in held])
    assert loss(tuned.variants, x, held) == pytest.approx(tuned.after, rel=1e-3)
    assert tuned.variants.curves.shape[::2] == (2, 2)
    assert tuned.variants.curves.mean(0)[:, 1].min() == pytest.approx(tuned.after)


@pytest.mark.parametrize("strategy", PRETRAINED)
def test_tuning_never_makes_it_worse(files: list[Path], strategy: str) -> None:
    """Far too high a rate: what comes back is the start."""
    tuning = replace(TUNING, learning_rate=30.0, patience=1)
    tuned, net = tune(files, strategy, tuning), network()
    assert tuned.variants.epochs == [0, 0]
    assert tuned.after == tuned.before
    assert tuned.variants.curves.shape == (2, 1, 2)
    assert all(torch.equal(tuned.state[name], value) for name, value in net.state_dict().items())
    start = fitted(net, files, tuning)
    torch.testing.assert_close(tuned.variants.weight1, start.weight1)
    torch.testing.assert_close(tuned.variants.bias1, start.bias1, rtol=1e-4, atol=1e-5)
    held = np.flatnonzero(validation_mask(GROUPS, Plan(tuning=tuning)))
    assert tuned.before == pytest.approx(loss(start, embedded(net, [files[i] for i in held]), held), rel=1e-4)


def test_calls_that_make_no_sense_are_refused(files: list[Path], tmp_path: Path) -> None:
    net = network()
    start = fitted(net, files)

    def call(strategy: str, start: Variants | None, **other: Any) -> None:
        data = rated(files, **{name: other.pop(name) for name in ("ratings", "groups") if name in other})
        fine_tune(data, context(net, strategy=strategy, **other), start)

    with pytest.raises(AISError, match="no strategy 'all'"):
        call("all", start)
    with pytest.raises(AISError, match="nothing to fine-tune"):
        call("head", start)
    with pytest.raises(AISError, match="fit one first"):
        call("last-k", None)
    with pytest.raises(AISError, match="give it no fitted head"):
        call("scratch", start)
    with pytest.raises(AISError, match="2 variants of 8 hidden units, not 2 of 16"):
        call("layerwise", start, recipe=replace(SMALL, hidden=16))
    with pytest.raises(DataError, match="one group"):
        call("layerwise", start, groups=["a"] * 48)
    with pytest.raises(DataError, match="All ratings are 4"):
        call("layerwise", start, ratings=np.full(48, 4.0))
    with pytest.raises(AISError, match="diverged"):
        call("scratch", None, tuning=replace(TUNING, learning_rate=1e30))
    (tmp_path / "no picture.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 problem|no picture\.png"):
        ImageLoader([*files, tmp_path / "no picture.png"], PREPROCESSING)


def test_strategies_are_one_sentence_each() -> None:
    for name, strategy in STRATEGIES.items():
        assert get_strategy(name) is strategy
        assert strategy.about.endswith(".")
        assert strategy.about.count(".") == 1
    assert next(iter(STRATEGIES)) == "head"
    assert isinstance(STRATEGIES["head"], Strategy)


def test_a_random_backbone_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (random_backbone("efficientnet_lite0", seed).sha256 for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("strategy", ["layerwise", "scratch"])
def test_the_range_test_suggests_a_rate_that_learns(files: list[Path], strategy: str) -> None:
    """Beside trainings at fixed rates, the whole range up and down: it lies among those that learn."""
    net = network()
    start = fitted(net, files) if strategy == "layerwise" else None
    tuning = replace(TUNING, batch=8)
    calls: list[tuple[str, int, int]] = []
    trial = context(net, lambda *call: calls.append(call), strategy=strategy, tuning=tuning)
    curve = range_test(rated(files), trial, start)
    after = trial.backbone.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in net.state_dict().items())
    assert curve.curves.shape == (3, len(curve.rates))
    assert calls[-1][1] <= calls[-1][2] == 150
    assert (np.diff(np.log(curve.rates)) > 0).all()
    assert curve.suggested is not None
    tried = np.geomspace(1e-6, 1, 7)
    learnt = [
        tune(files, strategy, replace(tuning, learning_rate=rate, epochs=6, patience=6))
        .variants.curves[:, -1, 0]
        .mean()
        for rate in (curve.suggested, *tried.tolist())
    ]
    begin, least = learnt[1], min(learnt)  # at the lowest rate nothing changes
    assert learnt[0] < begin - 0.3 * (begin - least)
    assert sum(loss > begin - 0.3 * (begin - least) for loss in learnt[1:]) >= 4  # most rates do not


def test_the_range_test_says_that_a_fitted_head_leaves_nothing_to_learn(files: list[Path]) -> None:
    net = network()
    rows = np.flatnonzero(~validation_mask(GROUPS, Plan(tuning=TUNING)))
    x = embedded(net, [files[i] for i in rows])
    predicted = (x - x.mean(0)) @ torch.linspace(-1, 1, x.shape[1]).to(x) * 10
    ratings = np.full(len(files), 4.0)
    ratings[rows] += predicted.numpy()
    long = replace(SMALL, epochs=300, components=x.shape[1])
    start = fit_variants(x, ratings[rows], [GROUPS[i] for i in rows], variants=2, recipe=long)
    for seed in range(3):
        tuning = replace(TUNING, batch=8, augment=False)
        curve = range_test(
            rated(files, ratings=ratings), context(net, strategy="last-k", seed=seed, tuning=tuning), start
        )
        assert curve.suggested is None
        assert "hardly changes" in curve.reason


def test_pictures_are_those_of_the_view_kept_or_not(files: list[Path]) -> None:
    rows = np.array([5, 0, 3, 2, 7])
    for memory in (0, 10_000, 1 << 30):
        for batch in ImageLoader(files, PREPROCESSING, memory).batches([rows, rows[:1]]):
            for found, inputs in batch:
                for row, picture in zip(found, inputs, strict=True):
                    assert torch.equal(picture, PREPROCESSING(read_image(files[row])))
            assert sorted(np.concatenate([found for found, _ in batch])) in ([0, 2, 3, 5, 7], [5])
            assert len({inputs.shape for _, inputs in batch}) == len(batch) <= 2


def test_augmentation_is_mild_and_its_own() -> None:
    x, y = np.meshgrid(np.linspace(60, 200, 100), np.linspace(60, 200, 80))
    picture = torch.from_numpy(np.stack([x, y, y]).round().astype(np.uint8))
    state = torch.get_rng_state()
    many = [augment(picture, np.random.default_rng([0, i])) for i in range(200)]
    assert torch.equal(many[3], augment(picture, np.random.default_rng([0, 3])))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(one.shape == picture.shape and one.dtype == torch.uint8 for one in many)
    slopes = [(one[0].double().mean(0)[-1] - one[0].double().mean(0)[0]).item() / 140 for one in many]
    assert 60 < sum(slope < 0 for slope in slopes) < 140  # mirrored, about half of them
    # What is left of the gradient: the crop's sides, times the contrast's and the brightness's 0.9 to 1.1.
    assert min(map(abs, slopes)) > 0.8**0.5 * 0.9**2 - 0.02
    assert max(map(abs, slopes)) < 1.1**2 + 0.02
    assert np.ptp([one.double().mean().item() for one in many]) > 10
