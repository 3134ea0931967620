"""Training a backbone together with its head: the strategies of transfer learning.

One backbone is shared by K variants of the head, which learn together on top of it. The head stays two
linear layers on the embedding, as in `ais.training.mlp`; while it learns, the embedding is centred and divided by
**one** number, so that the same rate suits every backbone, and both are folded into the first layer after.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ais.data.ratings import RatedSet
from ais.data.splits import grouped_split
from ais.errors import AISError, DataError
from ais.heads.mlp import hidden_layer, output_layer
from ais.images.augmentation import augment
from ais.torch_state import own_state
from ais.training.loader import Group, ImageLoader
from ais.training.mlp import Variants
from ais.training.plan import FitContext, Plan, sample_weight
from ais.training.range_test import LRFinder, read_curves
from ais.training.strategies import FineTuneConfig, get_strategy, learning_rate, parameter_groups

_RANGE = (1e-6, 1.0)  # of rates to try

_DIVERGED = 4.0  # times what the loss was at the lowest rates


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned backbone and its heads, as of the epoch with the least validation loss.

    Attributes:
        state: the network's state dict, on the CPU.
        variants: the heads; `epochs` is that epoch, 0 for the start itself.
        before, after: the validation loss (the mean over the variants) at the start and at that epoch.
    """

    state: dict[str, Tensor]
    variants: Variants
    before: float
    after: float


def validation_mask(groups: Sequence[str], plan: Plan) -> np.ndarray:
    """The images that say when to stop, (N,) True for these; no group is on both sides."""
    return grouped_split(groups, plan.tuning.validation, plan.seed)


@own_state()
def fine_tune(data: RatedSet, context: FitContext, start: Variants | None) -> FineTuned:
    """Train a copy of a backbone together with K heads; the backbone given stays as it is.

    The loss is the mean of the K heads' squared errors of standardised ratings. The result is never worse
    on the images of `validation_mask` than the start was. Same arguments, same bytes (on one machine): no global
    random state is read or changed.

    A batch may hold several shapes; the step is that of the whole batch. Only where BatchNorm learns
    ("scratch") does each shape have statistics of its own.

    Args:
        data: N images with groups.
        context: its backbone has random weights (`random_backbone`) for "scratch"; its progress is called with
            ("steps", done, total) after every step, and the training may end before the last.
        start: heads fitted on the frozen network's embeddings, for all strategies but "scratch". Fit them
            without the images of `validation_mask`: heads trained on those make the start look too good.

    Raises:
        AISError: no such strategy, one that trains no backbone, or a start that does not fit it.
        DataError: images that cannot be read, ratings all the same, images all of one group.
    """
    learner = _learner(data, context, start)
    tuning, variants = context.plan.tuning, context.plan.variants
    steps = len(learner.parts(1))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(learner.optimizer, steps * tuning.epochs)
    before = learner.validate().mean().item()
    best, best_epoch = learner.state(), 0
    best_loss = math.inf if start is None else before  # what knows nothing is no result
    curves = np.full((variants, tuning.epochs, 2), np.nan)
    for epoch in range(1, tuning.epochs + 1):
        learned = torch.zeros_like(learner.zeros)
        for done, (size, losses) in enumerate(learner.epoch(epoch), (epoch - 1) * steps + 1):
            learned += losses * size / len(learner.training)
            schedule.step()
            context.report("steps", done, steps * tuning.epochs)
        losses = learner.validate()
        curves[:, epoch - 1] = torch.stack([learned, losses], 1).cpu().numpy()
        if losses.mean().item() < best_loss:
            best, best_loss, best_epoch = learner.state(), losses.mean().item(), epoch
        elif epoch - best_epoch >= tuning.patience:
            break
    if not math.isfinite(best_loss):
        raise AISError("The training diverged: the loss is not a number. Choose a lower learning rate.")
    learner.model.cpu().load_state_dict(best)
    return FineTuned(
        state={name: value.contiguous() for name, value in learner.model[0].state_dict().items()},
        variants=Variants(
            *learner.heads.folded(), *learner.rating, [best_epoch] * variants, curves[:, :epoch]
        ),
        before=before,
        after=best_loss,
    )


@own_state()
def range_test(
    data: RatedSet, context: FitContext, start: Variants | None, *, steps: int = 50, trials: int = 3
) -> LRFinder:
    """The learning-rate range test (Smith 2017, arXiv 1506.01186): short trainings at ever higher rates.

    The rate rises exponentially from 1e-6 to 1, those of earlier blocks in proportion. Every trial begins from the
    same weights, has its images in an order of its own, and ends early once the loss has grown to several times
    what it was. `ais.training.range_test.read_curves` says what is suggested, and when nothing is.

    From a batch's loss is taken what the same images' loss was at the start, and the mean over all of them is added:
    so the curve shows what the training changes, not which images happen to be in the batch. (Not where BatchNorm
    learns: there an image's loss depends on its batch.)

    Args:
        data, context, start: as `fine_tune`; the progress counts the steps of all trials, and a trial that diverges
            ends before its last.
        steps: of the optimiser, in each trial. trials: how many, from the plan's seed on.
    """
    learner = _learner(data, context, start)
    rates = np.geomspace(*_RANGE, steps)
    parameters = learner.optimizer.param_groups
    shares = [group["lr"] / parameters[0]["lr"] for group in parameters]  # the head is the first
    begin = learner.state(), copy.deepcopy(learner.optimizer.state_dict())
    curves = np.full((trials, steps), np.nan)
    for trial in range(trials):
        learner.model.load_state_dict(begin[0])
        learner.optimizer.load_state_dict(begin[1])
        losses = replace(learner, seed=learner.seed + trial).changes()
        for i, rate in enumerate(rates.tolist()):
            for group, share in zip(learner.optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            curves[trial, i] = next(losses)
            context.report("steps", trial * steps + i + 1, trials * steps)
            early = np.median(curves[trial, : i + 1][rates[: i + 1] <= 10 * rates[0]])
            if not curves[trial, max(0, i - 2) : i + 1].mean() <= _DIVERGED * early:
                curves[trial, i] = np.nan
                break
    return read_curves(rates, curves)


class _Heads(nn.Module):
    """K two-layer MLPs on ``z = (x - mean) / scale``: (B, D) -> (B, K)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, weights: Sequence[Tensor], mean: Tensor, scale: Tensor) -> None:
        """weights: weight1, bias1, weight2 and bias2, on z."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.weights = nn.ParameterList([weight.to(mean, copy=True) for weight in weights])

    def forward(self, embedding: Tensor) -> Tensor:
        weight1, bias1, weight2, bias2 = self.weights
        z = (embedding - self.mean) / self.scale
        return output_layer(hidden_layer(z, weight1, bias1), weight2, bias2)

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four on x as it is, float32, on the CPU."""
        weight1, bias1, weight2, bias2 = (weight.detach().cpu().double() for weight in self.weights)
        weight1 = weight1 / self.scale.cpu().double()
        bias1 = bias1 - weight1 @ self.mean.cpu().double()
        return weight1.float(), bias1.float(), weight2.float(), bias2.float()


@dataclass(frozen=True, eq=False)
class _Learner:
    """All that a step needs.

    Attributes:
        model: the network, then the heads.
        heads: the same as in `model`.
        norms: the BatchNorms whose statistics move.
        truth, counts: (N,) standardised ratings, and how much each picture counts.
        training, held: rows.
        begin: (N,), each picture's loss at the start, the mean over the heads; 0 where BatchNorm learns, NaN for those
            held out.
        rating: the ratings' mean and standard deviation.
        zeros: (K,).
    """

    model: nn.Sequential
    heads: _Heads
    norms: Sequence[nn.Module]
    optimizer: torch.optim.Optimizer
    images: ImageLoader
    truth: Tensor
    counts: Tensor
    training: np.ndarray
    held: np.ndarray
    begin: np.ndarray
    rating: tuple[float, float]
    zeros: Tensor
    tuning: FineTuneConfig
    seed: int

    def parts(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.training)
        return _parts(order, self.tuning.batch)

    def epoch(self, epoch: int) -> Iterator[tuple[int, Tensor]]:
        """One step after the other: how many pictures it had, and the losses before it, (K,)."""

        def change(image: Tensor, row: int) -> Tensor:
            return augment(image, np.random.default_rng([self.seed, epoch, row]))

        with _in_training(self.norms):
            for batch in self.images.batches(self.parts(epoch), change if self.tuning.augment else None):
                size = sum(len(rows) for rows, _ in batch)
                yield size, self._step(batch, size)

    def changes(self) -> Iterator[float]:
        """Epoch after epoch, each step's loss, the mean over the heads, freed of which pictures were in the batch."""
        mean = self.begin[self.training].mean()
        for epoch in itertools.count(1):
            for rows, (_, losses) in zip(self.parts(epoch), self.epoch(epoch), strict=True):
                yield losses.mean().item() - float(self.begin[rows].mean()) + float(mean)

    def _step(self, batch: list[Group], size: int) -> Tensor:
        losses = torch.zeros_like(self.zeros)
        self.optimizer.zero_grad()
        # On a GPU, convolutions would otherwise add up their gradients in any order.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            for rows, inputs in batch:  # gradients add up, so the step is that of the whole batch
                part = self._errors(rows, inputs).sum(0) / size
                torch.autograd.backward(part.mean())
                losses += part.detach()
        self.optimizer.step()
        return losses

    def _errors(self, rows: np.ndarray, inputs: Tensor) -> Tensor:
        """Squared errors, as much as they count: (B, K)."""
        found = self.model(_placed(inputs, self.truth))
        index = torch.from_numpy(rows).to(found.device)
        return (found - self.truth[index, None]).square() * self.counts[index, None]

    def validate(self) -> Tensor:
        """Each variant's loss on the held-out pictures, (K,)."""
        total = torch.zeros_like(self.zeros)
        with torch.no_grad():
            for batch in self.images.batches(_parts(self.held, self.tuning.batch)):
                for rows, inputs in batch:
                    total += self._errors(rows, inputs).sum(0)
        return total / self.counts[torch.from_numpy(self.held).to(total.device)].sum()

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}


def _learner(data: RatedSet, context: FitContext, start: Variants | None) -> _Learner:
    plan, tuning = context.plan, context.plan.tuning
    strategy = get_strategy(plan.strategy)
    _check(plan, start)
    assert data.groups is not None
    if len(set(data.groups)) < 2:
        raise DataError("All pictures are of one group: none can be kept apart to say when to stop.")
    y = np.asarray(data.ratings, np.float64)
    rating = (float(y.mean()), float(y.std())) if start is None else (start.rating_mean, start.rating_std)
    if y.std() == 0:
        raise DataError(f"All ratings are {y[0]:g}: there is nothing to learn from.")
    network = copy.deepcopy(context.backbone.network).eval().requires_grad_(False)
    # Autograd keeps nothing of what comes before the first parameter that learns.
    learning = parameter_groups(network, strategy, tuning)
    for group in learning:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    norms = [] if strategy.frozen_norm else [m for m in network.modules() if isinstance(m, _BatchNorm)]
    held = validation_mask(data.groups, plan)
    training = np.flatnonzero(~held)
    images = ImageLoader(data.files, context.backbone.preprocessing)
    like = next(network.parameters())
    if norms:  # so that their statistics are no longer those of nothing at all
        _embed(network, norms, images, _parts(training, tuning.batch), like)
    rows, embedding = _embed(network, [], images, _parts(training, tuning.batch), like)
    mean = embedding.mean(0)
    scale = (embedding - mean).square().mean().sqrt()
    if not scale > 0:
        raise DataError(
            "The backbone sees no difference between the pictures: there is nothing to learn from."
        )
    if start is None:
        start_weights = _random(len(mean), plan)
    else:
        weight1, shift = start.weight1.double(), mean.cpu().double()
        start_weights = [weight1 * scale.item(), start.bias1 + weight1 @ shift, start.weight2, start.bias2]
    heads = _Heads(start_weights, mean, scale)
    optimizer = torch.optim.AdamW(
        [{"params": [*heads.parameters()], "lr": learning_rate(strategy, tuning)}, *learning],
        weight_decay=tuning.weight_decay,
        fused=True,
    )
    counts = sample_weight(data) if plan.weighted else np.ones(len(y))
    counts = counts / counts.mean()
    truth = torch.from_numpy((y - rating[0]) / rating[1]).to(mean)
    begin = np.full(len(y), np.nan)
    with torch.no_grad():
        errors = (heads(embedding) - truth[torch.from_numpy(rows).to(truth.device), None]).square().mean(1)
    begin[rows] = 0.0 if norms else errors.double().cpu().numpy() * counts[rows]
    return _Learner(
        model=nn.Sequential(network, heads),
        heads=heads,
        norms=norms,
        optimizer=optimizer,
        images=images,
        truth=truth,
        counts=torch.from_numpy(counts).to(mean),
        training=training,
        held=np.flatnonzero(held),
        begin=begin,
        rating=rating,
        zeros=torch.zeros(plan.variants).to(mean),
        tuning=tuning,
        seed=plan.seed,
    )


def _check(plan: Plan, start: Variants | None) -> None:
    name, strategy, wanted = plan.strategy, get_strategy(plan.strategy), (plan.variants, plan.recipe.hidden)
    if not strategy.trains_backbone:
        raise AISError(f"The strategy {name} leaves the backbone as it is: there is nothing to fine-tune.")
    if strategy.head_first and start is None:
        raise AISError(f"The strategy {name} starts from a fitted head: fit one first.")
    if start is not None and not strategy.head_first:
        raise AISError(f"The strategy {name} starts from nothing: give it no fitted head.")
    if start is not None and start.bias1.shape != wanted:
        raise AISError(
            f"The fitted head has {start.bias1.shape[0]} variants of {start.bias1.shape[1]} hidden units, not "
            f"{wanted[0]} of {wanted[1]}: ask for as many."
        )


def _parts(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Batches of about one size, so that no step is left with a single picture."""
    return np.array_split(rows, math.ceil(len(rows) / batch))


def _placed(inputs: Tensor, like: Tensor) -> Tensor:
    return inputs.to(like.device, like.dtype, memory_format=torch.channels_last)


def _embed(
    network: nn.Module, norms: Sequence[nn.Module], images: ImageLoader, parts: list[np.ndarray], like: Tensor
) -> tuple[np.ndarray, Tensor]:
    """Rows (N,) in any order, and their embeddings as they are, (N, D)."""
    with torch.no_grad(), _in_training(norms):
        found = [
            (rows, network(_placed(inputs, like)))
            for batch in images.batches(parts)
            for rows, inputs in batch
        ]
    return np.concatenate([rows for rows, _ in found]), torch.cat([embedding for _, embedding in found])


@contextmanager
def _in_training(norms: Sequence[nn.Module]) -> Iterator[None]:
    """BatchNorm alone: a network's dropout and side branches stay off."""
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


def _random(dim: int, plan: Plan) -> list[Tensor]:
    """Weights of K MLPs, as `torch.nn.Linear` draws them, each variant's from a generator of its own."""
    hidden = plan.recipe.hidden
    shapes = [((hidden, dim), dim), ((hidden,), dim), ((hidden,), hidden), ((), hidden)]
    generators = [np.random.default_rng([plan.seed, k]) for k in range(plan.variants)]
    drawn = [[g.uniform(-1, 1, shape) / math.sqrt(fan_in) for shape, fan_in in shapes] for g in generators]
    return [torch.from_numpy(np.stack(values)) for values in zip(*drawn, strict=True)]
