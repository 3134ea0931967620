"""A head's model card, made from its config alone."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ais.backbones import backbone_spec
from ais.heads import HeadConfig

_MEASURES = (
    ("plcc", "PLCC (Pearson correlation)", "pearsonr"),
    ("srcc", "SRCC (Spearman correlation)", "spearmanr"),
    ("krcc", "KRCC (Kendall's tau)", "kendalltau"),
    ("rmse", "RMSE (points)", "rmse"),
    ("mae", "MAE (points)", "mae"),
)


def model_card(config: HeadConfig) -> str:
    """The README.md of a head's folder: YAML front matter with a ``model-index``, and what a user must know."""
    return f"---\n{_front_matter(config)}\n---\n\n{_text(config)}"


def _front_matter(config: HeadConfig) -> str:
    dataset = config.target.dataset or "not named"
    results = [
        EvalResult(
            task_type="image-regression",
            dataset_type="image-ratings",
            dataset_name=dataset,
            metric_type=kind,
            metric_name=label,
            metric_value=round(config.metrics[key], 4),
        )
        for key, label, kind in _MEASURES
        if key in config.metrics
    ]
    spec = backbone_spec(config.backbone)
    data = ModelCardData(
        model_name=config.name,
        license="apache-2.0",
        library_name="ais",
        tags=["image-regression", "aesthetics", "explainability", "heatmap", config.target.name],
        base_model=spec.hub_id or None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _text(config: HeadConfig) -> str:
    target, metrics, interval = config.target, config.metrics, config.interval
    scale = f"{target.low:g} to {target.high:g}"
    view = "the whole picture at its own aspect ratio" if config.view == "whole" else "the square in its middle"
    parts = [
        f"# {config.name}\n\n"
        f"The **{target.name}** that people would say a picture has, from {scale}, and where in the picture it "
        f"comes from. A head for [AIS](https://github.com/ais-heatmaps/ais): {config.variants} two-layer MLPs "
        f"({config.dim} → {config.hidden} → 1) on the globally pooled maps of a frozen `{config.backbone}`, which "
        f"sees {view} at {config.size} pixels.",
        "## Use\n\n"
        f'```python\nimport ais\n\nexplanation = ais.explain("photo.jpg", head="{config.name}")\n'
        "print(explanation.score, explanation.interval)\nexplanation.overlay().save(\"overlay.png\")\n```\n\n"
        f"```\nais explain photo.jpg --head {config.name} --out explanation\n```",
        "## How well it does\n\n" + _measured(metrics, interval.level, interval.error * interval.factor),
        "## The data\n\n" + (config.about or "The maker of this head has not said whose ratings these are.")
        + f"\n\n{_count(metrics)}The ratings are mean opinions of the people who were asked: what they saw, when and "
        "where they live shape them, and the head repeats that.",
        "## What it is for, and what it is not\n\n"
        f"For studying what networks and people look at, and for seeing what helps and what hurts a picture's "
        f"{target.name}. It predicts an average of many people's opinions; single people differ. It knows only pictures "
        "like those it was trained on: on others (drawings, screenshots, medical pictures, other cultures) its score "
        "has not been checked. It is not a judgement of the people in a picture, and must not be used to rank, select or "
        "refuse people or their work. A heatmap says what this network's score comes from, not what a person looked at.",
        "## How it was trained\n\n" + _recipe(config),
        "## Files\n\n"
        "`config.json` and `model.safetensors`, no code and no pickle: the variants' stacked weights, the `alignment` "
        "importance of every feature map (how much it helped to match people on held-out pictures) and the ratings' "
        "quantiles.\n\nThe head is under the Apache License 2.0; the backbone's weights and the pictures have licences of "
        "their own.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(metrics: dict[str, Any], level: float, half_width: float) -> str:
    rows = []
    for key, label, _ in _MEASURES:
        if key in metrics:
            interval = f"{metrics[f'{key}_low']:.3f} to {metrics[f'{key}_high']:.3f}" if f"{key}_low" in metrics else ""
            rows.append(f"| {label} | {metrics[key]:.3f} | {interval} |")
    if not rows:
        return "Nothing has been measured."
    folds = metrics.get("folds")
    how = f"{folds}-fold cross-validation" if folds else "held-out pictures"
    if metrics.get("grouped"):
        how += f" in which the {metrics['groups']} groups of pictures are never split"
    return (
        f"By {how}, every picture scored by variants that had seen neither it nor its group. The interval resamples "
        "the groups.\n\n| measure | value | 95 % interval |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        f"The score's own {level:.0%} interval is about ±{half_width:.2f} points, a little wider where the variants "
        "disagree; its width was set so that this share of the held-out ratings lies inside."
    )


def _count(metrics: dict[str, Any]) -> str:
    return f"{metrics['pictures']} pictures in {metrics['groups']} groups. " if "pictures" in metrics else ""


def _recipe(config: HeadConfig) -> str:
    recipe = dict(config.recipe)
    command = recipe.pop("command", None)
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items()) or "Not recorded."
    again = f"```\n{command}\n```\n\nmakes it again, to the byte on the same machine.\n\n" if command else ""
    return again + f"AdamW on the mean squared error of standardised ratings, stopped early: {said}."
