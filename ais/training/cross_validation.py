"""Fitting heads by a plan, and judging pictures by heads that have seen neither them nor their groups."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from ais.attribution import importance
from ais.backbones.embeddings import EmbeddedSet, cache_directory, embed
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import random_backbone
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_folds
from ais.errors import AISError, DataError
from ais.heads.config import HeadConfig, Interval, Target
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.io.files import write_atomically
from ais.progress import Report
from ais.torch_state import own_state
from ais.training.finetuning import find_rate, fine_tune, held_out
from ais.training.mlp import Variants, fit_variants
from ais.training.plan import Plan
from ais.training.range_test import RateCurve
from ais.training.strategies import STRATEGIES

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FORMAT = 1  # of what is kept of a fold: to be raised when the same plan gives other heads

_CHECKSUM = 32  # bytes of SHA-256 before it


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What variants say of pictures whose group they have not seen.

    Attributes:
        scores: (N, K). folds: (N,), the fold in which each picture was held out.
        alignment: (C,), the mean residual importance; 0 where the backbone's maps mix.
    """

    scores: np.ndarray
    folds: np.ndarray
    alignment: np.ndarray


@dataclass(frozen=True, eq=False)
class Pictures:
    """A rated set as a backbone sees it.

    Attributes:
        data: files and ratings. embedded: of the same N pictures.
        groups: N names; a picture's own file where the set has no groups.
    """

    data: RatedSet
    embedded: EmbeddedSet
    groups: list[str]

    @property
    def embedding(self) -> Tensor:
        return self.embedded.embedding

    @property
    def delta(self) -> Tensor:
        """(N, C); an empty one, (N, 0), where the backbone's maps mix."""
        delta = self.embedded.delta
        return torch.zeros(len(self.data), 0) if delta is None else delta

    def rows(self, index: np.ndarray) -> Pictures:
        """Some of them, by number."""
        chosen, delta = torch.from_numpy(index), self.embedded.delta
        hashes = [self.embedded.hashes[i] for i in index]
        part = EmbeddedSet(self.embedding[chosen], None if delta is None else delta[chosen], hashes)
        return Pictures(self.data.rows(index), part, [self.groups[i] for i in index])


@own_state()
def look(
    data: RatedSet, backbone: FrozenBackbone, report: Report | None = None, cache: bool = True
) -> Pictures:
    """One pass of the backbone over the set.

    Raises:
        DataError: no pictures, or unreadable ones.
    """
    if not len(data):
        raise DataError(f"No pictures of {data.folder} are left.")
    show = None if report is None else lambda done, total: report("pictures", done, total)
    embedded = embed(data.files, backbone, progress=show, cache=cache)
    alone = [file.relative_to(data.folder).as_posix() for file in data.files]
    return Pictures(data, embedded, data.groups or alone)


@own_state()
def cross_validate(
    pictures: Pictures,
    backbone: FrozenBackbone,
    plan: Plan,
    *,
    progress: Report | None = None,
    cache: bool = True,
) -> OutOfFold:
    """Every picture's scores by variants that have seen neither it nor its group.

    A fold's result is kept beside the embeddings: it depends on the plan, the ratings and what the backbone saw.
    """
    report = progress or (lambda stage, done, total: None)
    folds = grouped_folds(pictures.groups, min(plan.folds, len(set(pictures.groups))), plan.seed)
    count = int(folds.max()) + 1
    channels = pictures.delta.shape[1] or _channels(pictures, backbone)
    scores = np.empty((len(folds), plan.variants))
    total = np.zeros(channels)
    for fold in range(count):
        report("folds", fold, count)
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        seed = plan.seed + 1 + fold
        file = _fold_file(pictures, backbone, plan, seed, outside) if cache else None
        kept = _read_fold(file) if file else None
        if kept is None:
            fitted, own, _ = fit(pictures.rows(inside), backbone, plan, seed, progress)
            kept = _judge(fitted, pictures.rows(outside), own, plan, channels)
            if file:
                cache = _keep_fold(file, save(kept))
        scores[outside] = kept["scores"].numpy()
        total += kept["residuals"].numpy()
    report("folds", count, count)
    return OutOfFold(scores, folds, total / len(folds))


@own_state()
def fold_heads(
    pictures: Pictures, backbone: FrozenBackbone, plan: Plan, config: HeadConfig, folds: np.ndarray
) -> list[RegressionHead]:
    """The heads of a grouped cross-validation on the frozen backbone, each fitted on all folds but its own.

    Args:
        config: of a head with the same plan. folds: (N,).
    """
    return [
        fit_head(pictures.rows(np.flatnonzero(folds != fold)), backbone, plan, config, plan.seed + 1 + fold)
        for fold in range(int(folds.max()) + 1)
    ]


@own_state()
def fit_head(
    pictures: Pictures, backbone: FrozenBackbone, plan: Plan, config: HeadConfig, seed: int
) -> RegressionHead:
    """A head like another one, by the same plan on these pictures and the frozen backbone."""
    return _bare(_fit_frozen(pictures, backbone.device, plan, seed), config).to(backbone.device)


@own_state()
def fit(
    pictures: Pictures, backbone: FrozenBackbone, plan: Plan, seed: int, report: Report | None
) -> tuple[Variants, FrozenBackbone, dict[str, Tensor] | None]:
    """Variants by the plan's strategy, the backbone they are for, and its tensors if it was trained with them."""
    if STRATEGIES[plan.strategy].trains == "nothing":
        return _fit_frozen(pictures, backbone.device, plan, seed), backbone, None
    tuned = _tune(fine_tune, pictures, backbone, plan, seed, report)
    if not any(tuned.variants.epochs):  # no epoch was better than the start
        return tuned.variants, backbone, None
    network = copy.deepcopy(backbone.network).cpu()
    network.load_state_dict(tuned.state)
    own = FrozenBackbone(
        network, backbone.name, backbone.layer, backbone.preprocessing, backbone.embedding_slice
    ).to(backbone.device)
    return tuned.variants, own, tuned.state


@own_state()
def rate_curve(
    pictures: Pictures, backbone: FrozenBackbone, plan: Plan, report: Report | None = None
) -> RateCurve:
    """The learning-rate range test of `ais.training.finetuning.find_rate`, as `fit` would begin."""
    return _tune(find_rate, pictures, backbone, plan, plan.seed, report)


def _tune(
    call: Callable[..., Result],
    pictures: Pictures,
    backbone: FrozenBackbone,
    plan: Plan,
    seed: int,
    report: Report | None,
) -> Result:
    """One of `ais.training.finetuning`'s functions on these pictures, begun as the strategy says."""
    strategy = STRATEGIES[plan.strategy]
    start = None
    if strategy.head_first:  # without the pictures that will say when to stop
        learned_from = np.flatnonzero(~held_out(pictures.groups, plan.tuning, seed))
        start = _fit_frozen(pictures.rows(learned_from), backbone.device, plan, seed)
    network = backbone.network
    if not strategy.pretrained:
        network = random_backbone(backbone.name, seed, backbone.layer, device=backbone.device).network
    return call(
        network,
        backbone.preprocessing,
        pictures.data.files,
        pictures.data.ratings,
        pictures.groups,
        start,
        strategy=plan.strategy,
        tuning=plan.tuning,
        variants=plan.variants,
        hidden=plan.recipe.hidden,
        seed=seed,
        weights=_weights(pictures.data) if plan.weighted else None,
        device=backbone.device,
        progress=None if report is None else lambda done, total: report("steps", done, total),
    )


def _fit_frozen(pictures: Pictures, device: torch.device, plan: Plan, seed: int) -> Variants:
    return fit_variants(
        pictures.embedding.to(device),
        pictures.data.ratings,
        pictures.groups,
        variants=plan.variants,
        seed=seed,
        recipe=plan.recipe,
        weights=_weights(pictures.data) if plan.weighted else None,
    )


def _weights(data: RatedSet) -> np.ndarray:
    """How much each picture's squared error counts: the inverse of its rating's variance around what can be known.

    A rating is the true mean plus sampling error, of variance SD²/N; the pictures themselves differ by the rest of
    the ratings' variance. As in a random-effects meta-analysis (DerSimonian & Laird 1986), so that a rating by few
    people counts less and one by very many not without bound.

    Raises:
        DataError: the set does not say how sure its ratings are.
    """
    if data.sd is None or data.n is None:
        raise DataError(
            f"To weight the pictures by how sure their ratings are, {data.folder} needs columns with the ratings' "
            "standard deviation and number of raters."
        )
    error = data.sd**2 / data.n
    between = max(float(np.var(data.ratings) - error.mean()), 1e-3 * float(np.var(data.ratings)))
    return 1 / (between + error)


def _bare(fitted: Variants, config: HeadConfig) -> RegressionHead:
    """A head for judging held-out pictures: without what only a finished one has."""
    return fitted.head(replace(config, trained_on=0))


def _judge(
    fitted: Variants,
    pictures: Pictures,
    backbone: FrozenBackbone,
    plan: Plan,
    channels: int,
) -> dict[str, Tensor]:
    """Scores (n, K) of held-out pictures and the sum of their residual importances (C,), float64."""
    if STRATEGIES[plan.strategy].trains != "nothing":
        pictures = look(pictures.data, backbone, cache=False)
    config = HeadConfig(
        name="fold",
        backbone=backbone.name,
        layer=backbone.layer,
        view=backbone.preprocessing.view,
        size=backbone.preprocessing.size,
        dim=pictures.embedding.shape[1],
        channels=channels,
        hidden=plan.recipe.hidden,
        variants=plan.variants,
        target=Target(pictures.data.target, 0, 1),
        interval=Interval(0.5, 0, 0),
    )
    head = _bare(fitted, config).to(backbone.device)
    embedding, delta = pictures.embedding.to(backbone.device), pictures.delta.to(backbone.device)
    with torch.no_grad():
        hidden = head.hidden(embedding)
        scores = head.readout(hidden)
        residuals = torch.zeros(channels, dtype=torch.float64)
        if backbone.embedding_slice is not None:
            truth = torch.from_numpy(pictures.data.ratings).to(scores)
            effects = importance.channelwise(hidden, delta, backbone.embedding_slice, head)
            residuals = importance.residual(effects, scores.mean(1), truth).double().sum(0)
    return {"scores": scores.double().cpu(), "residuals": residuals.cpu()}


def _fold_file(
    pictures: Pictures,
    backbone: FrozenBackbone,
    plan: Plan,
    seed: int,
    outside: np.ndarray,
) -> Path | None:
    """Where a fold's result is kept: named by all that it depends on; None where there is no place."""
    data = pictures.data
    settings = (
        _FORMAT,
        plan.to_dict(),
        seed,
        backbone.preprocessing,
        backbone.name,
        backbone.layer,
        backbone.sha256,
    )
    digest = hashlib.sha256(repr((settings, pictures.groups, pictures.embedded.hashes)).encode())
    for array in [data.ratings, outside, *([data.sd, data.n] if plan.weighted else [])]:
        digest.update(np.ascontiguousarray(array).tobytes())
    try:
        return cache_directory().parent / "folds" / f"{digest.hexdigest()[:32]}.fold"
    except RuntimeError:  # no home, which the embeddings' cache has said
        return None


def _keep_fold(file: Path, data: bytes) -> bool:
    """Whether it could be kept; if not, that is said, and the work goes on."""
    try:
        write_atomically(file.parent, {file.name: hashlib.sha256(data).digest() + data})
    except AISError as error:
        logger.warning("The folds are not kept for another run. %s", error)
        return False
    return True


def _read_fold(file: Path) -> dict[str, Tensor] | None:
    """None where there is none, or a damaged one."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    checksum, kept = data[:_CHECKSUM], data[_CHECKSUM:]
    return load(kept) if hashlib.sha256(kept).digest() == checksum else None


def _channels(pictures: Pictures, backbone: FrozenBackbone) -> int:
    """The number of feature maps, by looking at one picture."""
    return backbone(read_image(pictures.data.files[0])).maps.shape[1]
