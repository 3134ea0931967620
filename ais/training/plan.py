"""How a head is trained (`Plan`), and all that a fit needs beside its images (`FitContext`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import RatedSet
from ais.errors import DataError
from ais.heads.config import HeadConfig
from ais.progress import StageProgress
from ais.training.recipe import Recipe
from ais.training.strategies import STRATEGIES, FineTuneConfig


@dataclass(frozen=True)
class Plan:
    """How a head is trained; with the images and the backbone, all that its weights depend on.

    Attributes:
        variants: K.
        seed: of the folds, the splits and the variants.
        folds: of the cross-validation.
        weighted: count each image by how sure its rating is.
        strategy: a key of `ais.training.strategies.STRATEGIES`.
        recipe: of the variants on the frozen backbone; `tuning`: of those strategies that train the backbone, too.
    """

    variants: int = 10
    seed: int = 0
    folds: int = 10
    weighted: bool = False
    strategy: str = "head"
    recipe: Recipe = Recipe()
    tuning: FineTuneConfig = FineTuneConfig()

    def to_dict(self) -> dict[str, Any]:
        """For a head's config; without the tuning where there is none."""
        plan = asdict(self)
        if not STRATEGIES[self.strategy].trains_backbone:
            del plan["tuning"]
        return plan

    @classmethod
    def of(cls, config: HeadConfig) -> Plan:
        """The plan that a head was trained by.

        Raises:
            DataError: its config does not say.
        """
        kept = {f.name: config.recipe[f.name] for f in fields(cls) if f.name in config.recipe}
        try:
            kept["recipe"] = Recipe(**kept["recipe"])
            kept["tuning"] = FineTuneConfig(**kept.get("tuning", {}))
            plan = cls(**kept)
            STRATEGIES[plan.strategy]  # a newer AIS may know more of them
        except (TypeError, KeyError) as error:
            raise DataError(
                f"The config of {config.name!r} does not say how it was trained: {error}."
            ) from error
        return plan


@dataclass(frozen=True)
class FitContext:
    """All that a fit needs beside its images.

    Attributes:
        backbone: with its preprocessing; heads are fitted on its device.
        plan: with the seed.
        progress: called with ("pictures", "folds" or "steps", done, total); what it raises ends the fit.
        cache: read and keep embeddings and the results of folds.
    """

    backbone: FrozenBackbone
    plan: Plan = Plan()
    progress: StageProgress | None = None
    cache: bool = True

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def with_seed(self, seed: int) -> FitContext:
        return replace(self, plan=replace(self.plan, seed=seed))

    def report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def sample_weight(data: RatedSet) -> np.ndarray:
    """How much each image's squared error counts, (N,): the inverse of its rating's variance around what can be known.

    A rating is the true mean plus sampling error, of variance SD²/N; the images themselves differ by the rest of
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
