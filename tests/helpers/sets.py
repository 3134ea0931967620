"""Fitting: the batched computation against a plain loop, folding, seeds, and that it learns what there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat
from torch import Tensor

from ais.backbones.loading import load_backbone, random_backbone
from ais.backbones.registry import BACKBONES, BackboneSpec
from ais.data.columns import RatingColumns
from ais.data.ratings import RatedSet, read_ratings
from ais.heads.config import BACKBONE, Target
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.training.mlp import Variants
from ais.training.plan import Plan
from ais.training.recipe import Recipe
from ais.training.strategies import FineTuneConfig
from ais.workflows.train import TrainingReport, train_head
from helpers.networks import TinyNetwork, randomise
from helpers.pictures import encoded, photo


def predict(fitted: Variants, x: Tensor) -> Tensor:
    """The variants as a plain loop: (N, K)."""
    columns = []
    for w1, b1, w2, b2 in zip(fitted.weight1, fitted.bias1, fitted.weight2, fitted.bias2, strict=True):
        columns.append((x @ w1.T + b1).relu() @ w2 + b2)
    return torch.stack(columns, dim=1) * fitted.rating_std + fitted.rating_mean


SMALL = Recipe(components=12, hidden=16, learning_rate=1e-3, epochs=6, batch=16)

PLAN = Plan(variants=2, folds=3, recipe=SMALL)

TUNED = replace(
    PLAN, folds=2, strategy="last-k", tuning=FineTuneConfig(learning_rate=1e-2, epochs=1, last_k=1)
)


def add_backbones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small networks in the registry, with weights in torch's cache; and a cache for what they see."""
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setenv("AIS_CACHE", str(folder / "cache"))
    checkpoints = folder / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for seed, name in enumerate(("little1", "little2")):
        torch.manual_seed(seed)
        torch.save(randomise(TinyNetwork(), seed).state_dict(), checkpoints / f"{name}.pth")
        layers = {"inner": range(12), "stem.0": None}
        source = f"https://example.org/{name}.pth"
        entry = BackboneSpec(
            build=TinyNetwork,
            classifier="classifier",
            target_layers=layers,
            size=32,
            resize_to=36,
            source=source,
        )
        monkeypatch.setitem(BACKBONES, name, entry)


def make_set(folder: Path, count: int = 36, seed: int = 0) -> RatedSet:
    """Pictures whose rating is how bright they are, more or less; pairs belong together."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file_name,rating_mean,rating_sd,rating_n,theme,category"]
    for i in range(count):
        level = rng.uniform(20, 230)
        pixels = np.clip(level + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed} {i}.png")
        rating = np.clip(level / 25.5 + rng.normal(0, 0.5), 0, 10)
        opinions = f"{rng.uniform(0.5, 2)},{rng.integers(3, 90)}"
        rows.append(f"{seed} {i}.png,{rating},{opinions},theme {seed} {i // 2},{'ab'[i % 2]}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return read_ratings(folder, RatingColumns("rating_mean", group="theme", category="category"))


PNG = encoded(photo(8, 8), "PNG")

JPEG = encoded(photo(20, 16), "JPEG")

SCALES = ("quality", "authenticity", "correspondence")


def aigciqa2023(folder: Path) -> dict[str, np.ndarray]:
    """The set in the authors' layout, without their table; the vectors it was made of."""
    rng = np.random.default_rng(0)
    vectors = {}
    for place in ("Image/allimg", "DATA/MOS", "DATA/STD"):
        (folder / place).mkdir(parents=True)
    for i, scale in enumerate(SCALES, start=1):
        vectors[f"{scale}_mean"] = rng.uniform(20, 80, 2400)
        vectors[f"{scale}_raw_sd"] = rng.uniform(0.4, 1.6, 2400)
        savemat(folder / f"DATA/MOS/mosz{i}.mat", {"MOSz": vectors[f"{scale}_mean"][:, None]})
        savemat(folder / f"DATA/STD/SD{i}.mat", {"SD": vectors[f"{scale}_raw_sd"][:, None]})
    for i in range(2400):
        (folder / f"Image/allimg/{i}.png").write_bytes(PNG)
    return vectors


# As the authors have them: old Mac line ends, a space too many, themes of two words; and in the table of
# beauty themes without spaces, other categories, and empty columns at the end.
OASIS = (
    ",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\r"
    "I1,Acorns 1,Object,Pixabay,4.68627451,0.954202712,102,2.346534653,1.602720459,101\r"
    "I2,Angry face 10,Person,Flickr/Jan Tik,2.5,1.06007659,101,3,1.790403461,101\r"
    'I3,War 2 ,Scenery,"Wikipedia, ""A""",2.396039604,1.51709728,101,4.582524272,1.876188626,103\r'
)

BEAUTY = (
    "item,beauty_mean,Theme,Category,Valence_mean,Arousal_mean,beauty_SD,N,subset,women_beauty_mean,,\n"
    "3,3.15,War2,Scene,2.40,4.58,1.826287181,104,subset4,5.351648,,\n"
    "1,4.86,Acorns1,Object,4.69,2.35,1.479892638,140,subset2,4.8125,,6\n"
    "2,2.21,Angryface10,Person,2.50,3.00,1.462416151,368,subset1,4.759259,,\n"
)


def oasis(folder: Path, table: str = OASIS) -> Path:
    (folder / "Images").mkdir(parents=True)
    (folder / "OASIS.csv").write_bytes(table.encode())
    (folder / "beauty.csv").write_text(BEAUTY)
    for name in ("Acorns 1.jpg", "Angry face 10.jpg", "War 2.JPG", "Zebra 1.jpg"):
        (folder / "Images" / name).write_bytes(JPEG)
    # What archives made on a Mac have beside: a shadow of every file.
    for name in ("._OASIS.csv", "Images/._Acorns 1.jpg"):
        (folder / "__MACOSX" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "__MACOSX" / name).write_bytes(b"\0")
    return folder


TARGET = Target("brightness", 0, 10, "made for a test")


def trained(
    data: RatedSet, out: Path, plan: Plan = PLAN, backbone: str = "little1", size: int | None = None
) -> tuple[RegressionHead, TrainingReport]:
    """A head from its folder, as the command would leave it."""
    begin = (
        random_backbone(backbone, plan.seed, view="resize", size=size)
        if plan.strategy == "scratch"
        else load_backbone(backbone, view="resize", size=size)
    )
    head, report = train_head(data, begin, name=out.name, target=TARGET, plan=plan)
    head.save(out, extra={} if report.tuned is None else {BACKBONE: save(report.tuned)})
    loaded = load_head(out)
    assert isinstance(loaded, RegressionHead)
    return loaded, report


def pruned(head: RegressionHead, channels: list[int], out: Path) -> RegressionHead:
    made = RegressionHead(replace(head.config, name=out.name, pruned=channels))
    made.load_state_dict(head.state_dict())
    made.save(out)
    loaded = load_head(out)
    assert isinstance(loaded, RegressionHead)
    return loaded


def by_hand(head: RegressionHead, data: RatedSet) -> np.ndarray:
    """Scores (N, K), picture by picture, its pruned maps silenced in the network itself."""
    config = head.config
    backbone = load_backbone(config.backbone, config.layer, view=config.view, size=config.size)
    tensors = [backbone.preprocessing(read_image(file))[None] for file in data.files]
    return torch.cat([head(backbone(picture, head.keep).embedding) for picture in tensors]).numpy()


def joined(a: RatedSet, b: RatedSet) -> RatedSet:
    return RatedSet(
        a.folder.parent,
        a.target,
        a.files + b.files,
        np.concatenate([a.ratings, b.ratings]),
        groups=(a.groups or []) + (b.groups or []),
    )
