"""A head's model card, made from its config alone."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ais.backbones import backbone_spec
from ais.heads import HeadConfig

_TEMPLATE = Path(__file__).parent / "model_card.md"
_MEASURES = (  # key in the config, name on the card, the Hub's type of metric
    ("plcc", "PLCC (Pearson correlation)", "pearsonr"),
    ("srcc", "SRCC (Spearman correlation)", "spearmanr"),
    ("krcc", "KRCC (Kendall's tau)", "kendalltau"),
    ("rmse", "RMSE (points)", "rmse"),
    ("mae", "MAE (points)", "mae"),
)


def model_card(config: HeadConfig) -> str:
    """The README.md of a head's folder: front matter with a ``model-index``, and what a user must know."""
    metrics, recipe = config.metrics, dict(config.recipe)
    command = recipe.pop("command", None)
    measured = [(key, label, kind) for key, label, kind in _MEASURES if key in metrics]
    data = ModelCardData(
        model_name=config.name,
        license="apache-2.0",
        library_name="ais",
        tags=["image-regression", "aesthetics", "explainability", "heatmap", config.target.name],
        base_model=backbone_spec(config.backbone).hub_id or None,
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
        target=config.target,
        low=f"{config.target.low:g}",
        high=f"{config.target.high:g}",
        metrics=metrics,
        measures=[(label, f"{metrics[key]:.3f}", _interval(config, key)) for key, label, _ in measured],
        level=f"{100 * config.interval.level:g}",
        half_width=f"{config.interval.error * config.interval.factor:.2f}",
        command=command,
        recipe=", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items()).capitalize(),
    )
    return str(card).rstrip() + "\n"


def _interval(config: HeadConfig, key: str) -> str:
    low, high = (config.metrics.get(f"{key}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
