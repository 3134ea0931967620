"""A head's model card, made from its config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ais.backbones import backbone_spec
from ais.errors import AISError
from ais.heads import Config, HeadConfig, StackConfig
from ais.strategies import STRATEGIES

CURVE = "learning_curve.png"  # a picture for the card, if it lies in the head's folder

_TEMPLATE = Path(__file__).parent / "model_card.md"
_MEASURES = (  # key in the config, name on the card, the Hub's type of metric
    ("plcc", "PLCC (Pearson correlation)", "pearsonr"),
    ("srcc", "SRCC (Spearman correlation)", "spearmanr"),
    ("krcc", "KRCC (Kendall's tau)", "kendalltau"),
    ("rmse", "RMSE (points)", "rmse"),
    ("mae", "MAE (points)", "mae"),
)
_PLAN = (
    "variants",
    "seed",
    "folds",
    "weighted",
    "strategy",
)  # parts of a recipe that need no name before them


def model_card(config: Config) -> str:
    """The README.md of a head's folder: front matter with a ``model-index``, and what a user must know."""
    metrics, recipe = config.metrics, config.recipe
    measured = [(key, label, kind) for key, label, kind in _MEASURES if key in metrics]
    data = ModelCardData(
        model_name=config.name,
        license="apache-2.0",
        library_name="ais",
        tags=["image-regression", "aesthetics", "explainability", "heatmap", config.target.name],
        base_model=_base_model(config),
        eval_results=[
            EvalResult(
                task_type="image-regression",
                dataset_type="image-ratings",
                dataset_name=config.target.dataset or "not named",
                metric_type=kind,
                metric_name=label,
                metric_value=round(metrics[key], 4),
            )
            for key, label, kind in measured
        ]
        or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        config=config,
        stack=isinstance(config, StackConfig),
        target=config.target,
        low=f"{config.target.low:g}",
        high=f"{config.target.high:g}",
        metrics=metrics,
        measures=_table(metrics),
        test=_table(metrics.get("test", {})),
        level=f"{100 * config.interval.level:g}",
        half_width=f"{config.interval.error * config.interval.factor:.2f}",
        command=recipe.get("command"),
        strategy=STRATEGIES.get(recipe.get("strategy", "")),
        recipe=_recipe(recipe),
        curve=recipe.get("curve"),
    )
    return str(card).rstrip() + "\n"


def _base_model(config: Config) -> str | None:
    if not isinstance(config, HeadConfig):
        return None
    try:
        return backbone_spec(config.backbone).hub_id or None
    except AISError:  # a backbone that a newer AIS knows
        return None


def _table(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for key, label, _ in _MEASURES:
        if key in metrics:
            low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            rows.append((label, f"{metrics[key]:.3f}", interval))
    return rows


def _recipe(recipe: dict[str, Any]) -> str:
    """The settings in words, one after the other; those of the tuning have names in common with the head's."""
    settings = {key: recipe[key] for key in _PLAN if key in recipe} | recipe.get("recipe", {})
    tuning, strategy = dict(recipe.get("tuning", {})), STRATEGIES.get(recipe.get("strategy", ""))
    if tuning.get("learning_rate", 0) is None and strategy is not None:
        tuning["learning_rate"] = strategy.learning_rate
    parts = [_words(settings).capitalize(), f"Tuning: {_words(tuning)}" if tuning else ""]
    return ". ".join(part for part in parts if part)


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
