"""Fitting heads by a plan, and scoring images by heads that were trained on neither them nor their groups."""

from __future__ import annotations

import copy
import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

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
from ais.heads.base import content_key
from ais.heads.config import HeadConfig, Interval, Target
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.io.files import write_atomically
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.finetuning import fine_tune, validation_mask
from ais.training.mlp import Variants, fit_variants
from ais.training.plan import FitContext, sample_weight
from ais.training.pruning import ablate
from ais.training.strategies import STRATEGIES

logger = logging.getLogger(__name__)

_FORMAT = 1  # of what is kept of a fold: to be raised when the same plan gives other heads

_CHECKSUM = 32  # bytes of SHA-256 before it


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Scores of images by variants that were not trained on their groups.

    Attributes:
        scores: (N, K). folds: (N,), the fold in which each image was held out.
        alignment: (C,), the mean residual importance; 0 where the backbone's maps mix.
    """

    scores: np.ndarray
    folds: np.ndarray
    alignment: np.ndarray


@dataclass(frozen=True, eq=False)
class EmbeddedRatings:
    """A rated set and its embeddings by one backbone.

    Attributes:
        data: files and ratings. embedded: of the same N images.
        groups: N names; an image's own file where the set has no groups.
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

    def rows(self, index: np.ndarray) -> EmbeddedRatings:
        """Some of them, by number."""
        chosen, delta = torch.from_numpy(index), self.embedded.delta
        hashes = [self.embedded.hashes[i] for i in index]
        part = EmbeddedSet(self.embedding[chosen], None if delta is None else delta[chosen], hashes)
        return EmbeddedRatings(self.data.rows(index), part, [self.groups[i] for i in index])


@own_state()
def embed_ratings(
    data: RatedSet, backbone: FrozenBackbone, progress: StageProgress | None = None, cache: bool = True
) -> EmbeddedRatings:
    """One pass of the backbone over the set.

    Raises:
        DataError: no images, or unreadable ones.
    """
    if not len(data):
        raise DataError(f"No pictures of {data.folder} are left.")
    show = None if progress is None else lambda done, total: progress("pictures", done, total)
    embedded = embed(data.files, backbone, progress=show, cache=cache)
    own_names = [file.relative_to(data.folder).as_posix() for file in data.files]
    return EmbeddedRatings(data, embedded, data.groups or own_names)


@own_state()
def cross_validate(rated: EmbeddedRatings, context: FitContext) -> OutOfFold:
    """Every image's scores by variants that were trained on neither it nor its group.

    A fold's result is kept beside the embeddings: it depends on the plan, the ratings and the network's input.
    """
    plan = context.plan
    folds = grouped_folds(rated.groups, min(plan.folds, len(set(rated.groups))), plan.seed)
    count = int(folds.max()) + 1
    channels = rated.delta.shape[1] or _channels(rated, context.backbone)
    scores = np.empty((len(folds), plan.variants))
    total = np.zeros(channels)
    for fold in range(count):
        context.report("folds", fold, count)
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        own = context.with_seed(plan.seed + 1 + fold)
        file = _fold_file(rated, own, outside) if context.cache else None
        kept = _read_fold(file) if file else None
        if kept is None:
            variants, backbone, _ = fit(rated.rows(inside), own)
            kept = _score_fold(variants, rated.rows(outside), replace(own, backbone=backbone), channels)
            if file and not _keep_fold(file, save(kept)):
                context = replace(context, cache=False)
        scores[outside] = kept["scores"].numpy()
        total += kept["residuals"].numpy()
    context.report("folds", count, count)
    return OutOfFold(scores, folds, total / len(folds))


@own_state()
def fold_heads(
    rated: EmbeddedRatings, context: FitContext, config: HeadConfig, folds: np.ndarray
) -> list[RegressionHead]:
    """The heads of a grouped cross-validation on the frozen backbone, each fitted on all folds but its own.

    Args:
        config: of a head with the same plan. folds: (N,).
    """
    return [
        fit_head(
            rated.rows(np.flatnonzero(folds != fold)), context.with_seed(context.plan.seed + 1 + fold), config
        )
        for fold in range(int(folds.max()) + 1)
    ]


@own_state()
def fit_head(rated: EmbeddedRatings, context: FitContext, config: HeadConfig) -> RegressionHead:
    """A head like another one, by the same plan on these images and the frozen backbone.

    It knows which images it was trained on, and their mean embedding; not what a finished head has measured.
    """
    embedding, owner = rated.embedding, context.backbone.embedding_slice
    if config.pruned and owner is not None:
        keep = torch.ones(config.channels, dtype=torch.bool)
        keep[config.pruned] = False
        embedding, _ = ablate(embedding, rated.delta, owner, keep)
    keys = torch.tensor([content_key(value) for value in rated.embedded.hashes])
    fitted = _fit_frozen(rated, context)
    head = fitted.head(replace(config, trained_on=len(keys)), trained_on=keys, typical=embedding.mean(0))
    return head.to(context.device)


@own_state()
def fit(
    rated: EmbeddedRatings, context: FitContext
) -> tuple[Variants, FrozenBackbone, dict[str, Tensor] | None]:
    """Variants by the plan's strategy, the backbone they are for, and its tensors if it was trained with them."""
    backbone = context.backbone
    if not STRATEGIES[context.plan.strategy].trains_backbone:
        return _fit_frozen(rated, context), backbone, None
    tuned = fine_tune(*fine_tuning_start(rated, context))
    if not any(tuned.variants.epochs):  # no epoch was better than the start
        return tuned.variants, backbone, None
    network = copy.deepcopy(backbone.network).cpu()
    network.load_state_dict(tuned.state)
    own = FrozenBackbone(network, backbone.name, backbone.layer, backbone.native, backbone.embedding_slice)
    seen = backbone.preprocessing
    return tuned.variants, own.to(backbone.device).with_preprocessing(seen.view, seen.size), tuned.state


def fine_tuning_start(
    rated: EmbeddedRatings, context: FitContext
) -> tuple[RatedSet, FitContext, Variants | None]:
    """What `ais.training.finetuning.fine_tune` and `range_test` begin with, as the plan's strategy says.

    Returns:
        The set with its groups; the context, with a random backbone where the strategy wants one; and heads fitted
        on the frozen backbone, without the images that say when to stop, or None where it starts from none.
    """
    plan, backbone = context.plan, context.backbone
    strategy = STRATEGIES[plan.strategy]
    start = None
    if strategy.head_first:
        training = np.flatnonzero(~validation_mask(rated.groups, plan))
        start = _fit_frozen(rated.rows(training), context)
    if not strategy.pretrained:
        seen = backbone.preprocessing
        random = random_backbone(
            backbone.name, plan.seed, backbone.layer, view=seen.view, size=seen.size, device=backbone.device
        )
        context = replace(context, backbone=random)
    return replace(rated.data, groups=rated.groups), context, start


def _fit_frozen(rated: EmbeddedRatings, context: FitContext) -> Variants:
    plan = context.plan
    return fit_variants(
        rated.embedding.to(context.device),
        rated.data.ratings,
        rated.groups,
        variants=plan.variants,
        seed=plan.seed,
        recipe=plan.recipe,
        sample_weight=sample_weight(rated.data) if plan.weighted else None,
    )


def _score_fold(
    fitted: Variants, rated: EmbeddedRatings, context: FitContext, channels: int
) -> dict[str, Tensor]:
    """Scores (n, K) of held-out images and the sum of their residual importances (C,), float64."""
    plan, backbone = context.plan, context.backbone
    if STRATEGIES[plan.strategy].trains_backbone:
        rated = embed_ratings(rated.data, backbone, cache=False)
    config = HeadConfig(
        name="fold",
        backbone=backbone.name,
        layer=backbone.layer,
        view=backbone.preprocessing.view,
        size=backbone.preprocessing.size,
        dim=rated.embedding.shape[1],
        channels=channels,
        hidden=plan.recipe.hidden,
        variants=plan.variants,
        target=Target(rated.data.target, 0, 1),
        interval=Interval(0.5, 0, 0),
    )
    head = fitted.head(config).to(backbone.device)
    embedding, delta = rated.embedding.to(backbone.device), rated.delta.to(backbone.device)
    with torch.no_grad():
        hidden = head.hidden(embedding)
        scores = head.readout(hidden)
        residuals = torch.zeros(channels, dtype=torch.float64)
        if backbone.embedding_slice is not None:
            truth = torch.from_numpy(rated.data.ratings).to(scores)
            effects = importance.channelwise(hidden, delta, backbone.embedding_slice, head).mean(1)
            residuals = importance.residual(effects, scores.mean(1), truth).double().sum(0)
    return {"scores": scores.double().cpu(), "residuals": residuals.cpu()}


def _fold_file(rated: EmbeddedRatings, context: FitContext, outside: np.ndarray) -> Path | None:
    """Where a fold's result is kept: named by all that it depends on; None where there is no place."""
    data, plan, backbone = rated.data, context.plan, context.backbone
    if backbone.changed():  # its hash is that of another network
        return None
    settings = (
        _FORMAT,
        plan.to_dict(),
        backbone.preprocessing,
        backbone.name,
        backbone.layer,
        backbone.sha256,
    )
    digest = hashlib.sha256(repr((settings, rated.groups, rated.embedded.hashes)).encode())
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


def _channels(rated: EmbeddedRatings, backbone: FrozenBackbone) -> int:
    """The number of feature maps, by a pass over one image."""
    return backbone(read_image(rated.data.files[0])).maps.shape[1]
