"""Fitting heads by a plan, and judging pictures by heads that have seen neither them nor their groups."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ais.errors import DataError
from ais.heads.config import HeadConfig
from ais.training.recipe import Recipe
from ais.training.strategies import STRATEGIES, Tuning


@dataclass(frozen=True)
class Plan:
    """How a head is trained; with the pictures and the backbone, all that its weights depend on.

    Attributes:
        variants: K.
        seed: of the folds, the splits and the variants.
        folds: of the cross-validation.
        weighted: count each picture by how sure its rating is.
        strategy: a key of `ais.training.strategies.STRATEGIES`.
        recipe: of the variants on the frozen backbone; `tuning`: of those strategies that train the backbone, too.
    """

    variants: int = 10
    seed: int = 0
    folds: int = 10
    weighted: bool = False
    strategy: str = "head"
    recipe: Recipe = Recipe()
    tuning: Tuning = Tuning()

    def to_dict(self) -> dict[str, Any]:
        """For a head's config; without the tuning where there is none."""
        plan = asdict(self)
        return {k: v for k, v in plan.items() if k != "tuning" or self.strategy != "head"}

    @classmethod
    def of(cls, config: HeadConfig) -> Plan:
        """The plan that a head was trained by.

        Raises:
            DataError: its config does not say.
        """
        kept = {f.name: config.recipe[f.name] for f in fields(cls) if f.name in config.recipe}
        try:
            kept["recipe"] = Recipe(**kept["recipe"])
            kept["tuning"] = Tuning(**kept.get("tuning", {}))
            plan = cls(**kept)
            STRATEGIES[plan.strategy]  # a newer AIS may know more of them
        except (TypeError, KeyError) as error:
            raise DataError(
                f"The config of {config.name!r} does not say how it was trained: {error}."
            ) from error
        return plan
