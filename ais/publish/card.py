"""A head's model card, made from its config alone.

A config may come from anywhere, so its words stay words: whatever the template puts in is escaped as Markdown,
unless it was made here; text of several lines, code and front matter each have their own way.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ais.attribution.methods import METHODS
from ais.backbones.registry import backbone_spec
from ais.errors import AISError, HeadError
from ais.heads.config import Config
from ais.heads.tasks import TASKS
from ais.training.strategies import STRATEGIES

CURVE, EXAMPLES = "learning_curve.png", "heatmaps.png"  # the card's pictures, if the recipe names them

CARD_IMAGES = {"curve": CURVE, "examples": EXAMPLES}  # by the key of the recipe that names them

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

CONFIG_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    jinja2.TemplateError,
)

_RESAMPLED = {  # what the interval is of, and what that leaves open
    True: "The interval resamples the groups.",
    False: "The interval resamples the pictures. No groups of related pictures were kept apart: where some are nearly "
    "the same, these figures flatter.",
}

# What has a meaning in the middle of a line: an underscore only outside of a word, an ampersand only in an entity.
_INLINE = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")

_LINE_START = re.compile(r"^(?:[#+=:-]|\d+(?=[.)]))")

_PYTHON = 'explanation = ais.explain("photo.jpg", head={})'  # the line by which `parse_card_links` knows the repository

_SPACE = "https://huggingface.co/spaces/"

_ID = r"[\w.-]+/[\w.-]+"


def model_card(config: Config, repository: str = "", space: str = "") -> str:
    """The README.md of a head's folder: front matter with a ``model-index``, and what a user must know.

    Args:
        repository: where it lies on the Hub, ``user/repo``, to be named where it is used; else its name is.
        space: a Space on the Hub that shows it, ``user/space``.

    Raises:
        HeadError: the metrics or the recipe are not as AIS writes them.
    """
    try:
        return _model_card(config, repository, space)
    except CONFIG_ERRORS as error:
        raise HeadError(
            f"There can be no model card for the head {_line(config.name)!r}, since the metrics or the recipe in its "
            f"config are not as AIS writes them ({_line(str(error))})."
        ) from error


def parse_card_links(card: str) -> tuple[str, str]:
    """The repository and the space that a generated card was made for; each is empty if it was made for none."""
    use = card.partition("\n## Use\n")[2].partition("\n## ")[0]  # other sections hold words of other people
    python = re.escape(_PYTHON).replace(r"\{\}", f'"({_ID})"')
    repository = re.search(f"^{python}$", use, re.MULTILINE | re.ASCII)
    space = re.search(rf"^On the page: <{re.escape(_SPACE)}({_ID})\?head=", use, re.MULTILINE | re.ASCII)
    return repository[1] if repository else "", space[1] if space else ""


def _model_card(config: Config, repository: str, space: str) -> str:
    task, metrics, recipe = TASKS[config.task], config.metrics, config.recipe
    target, interval = getattr(config, "target", None), getattr(config, "interval", None)
    measured = _table(metrics)
    named = repository or config.name
    data = ModelCardData(
        model_name=_line(config.name),
        license=_line(config.license) or None,
        library_name="ais",
        tags=list(filter(None, [*task.tags, "explainability", "heatmap", _line(config.predicts)])),
        eval_results=[
            EvalResult(
                task_type=task.tags[0],
                dataset_type="image-ratings",
                dataset_name=_line(config.dataset) or "not named",
                metric_type=kind,
                metric_name=label,
                metric_value=round(metrics[key], 4),
            )
            for key, label, kind in _MEASURES
            if key in metrics
        ]
        or None,
        **_base_model(config),
    )
    text = _template().render(
        card_data=_Markdown(data.to_yaml()),
        config=config,
        task=task,
        target=target,
        low=f"{target.low:g}" if target else "",
        high=f"{target.high:g}" if target else "",
        members=config.parts,
        python=_python(named),
        shell=f"ais explain photo.jpg --head {shlex.quote(_line(named))} --out explanation",
        query=f"?head={quote(_line(named))}",
        repository=repository,
        page=f"AIS_HEADS={shlex.quote(f'./{_line(named)}')} python app.py",
        space=_Markdown(_SPACE + quote(space)) if space else "",
        metrics=metrics,
        measures=measured,
        grouped=_grouped(metrics),
        resampled=_RESAMPLED[_grouped(metrics)],
        test=_table(metrics.get("test", {})),
        interval=interval,
        level=f"{100 * interval.level:g}" if interval else "",
        half_width=f"{interval.error * interval.factor:.2f}" if interval else "",
        command=recipe.get("command"),
        strategy=STRATEGIES.get(recipe.get("strategy", "")),
        recipe=_recipe(recipe),
        # Nothing but these two names is ever linked to.
        curve=CURVE if recipe.get("curve") == CURVE else "",
        examples=EXAMPLES if recipe.get("examples") == EXAMPLES else "",
        method=METHODS.get(str(recipe.get("heatmaps"))),
        weights_license=_spec_field(config, "license"),
    )  # fmt: skip
    return str(ModelCard(text)).rstrip() + "\n"


def _python(named: str) -> str:
    """The three lines; a name in quotation marks of its own ends no string."""
    return "\n".join(
        (
            "import ais",
            _PYTHON.format(json.dumps(_line(named), ensure_ascii=False)),
            'explanation.save("explanation")  # heatmap.npy, overlay.png, explanation.json',
        )
    )


def _grouped(metrics: dict[str, Any]) -> bool:
    """Pictures that belong together were kept together, as far as the head says; a group a picture keeps nothing."""
    images, groups = metrics.get("pictures", 0), metrics.get("groups", 0)
    return bool(metrics.get("grouped", True)) and groups < images


def _base_model(config: Config) -> dict[str, Any]:
    """What the Hub shows as the model's origin; a frozen backbone is added to, a tuned one is another."""
    hub_id = _spec_field(config, "hub_id")
    if not hub_id:
        return {}
    return {"base_model": hub_id, "base_model_relation": "finetune" if config.has_own_backbone else "adapter"}


def _spec_field(config: Config, name: str) -> str:
    """What the registry says of the head's backbone; empty if there is none, or it is one that a newer AIS knows."""
    for backbone in config.backbone_names:
        try:
            return str(getattr(backbone_spec(backbone), name))
        except AISError:
            break
    return ""


def _table(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for key, label, _ in _MEASURES:
        if key in metrics:
            value, low, high = (metrics.get(name) for name in (key, f"{key}_low", f"{key}_high"))
            if not all(math.isfinite(number) for number in (value, low, high) if number is not None):
                raise ValueError(f"{key} is not finite")
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            rows.append((label, f"{value:.3f}", interval))
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


class _Markdown(str):
    """Markdown that is as it should be: the template puts it in as it is."""


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(finalize=_escape)
    environment.filters |= {"paragraphs": _paragraphs, "span": _span, "fence": _fence}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _escape(value: object) -> str:
    """Any value within a line, as text that means nothing to Markdown or HTML."""
    return value if isinstance(value, _Markdown) else _INLINE.sub(r"\\\g<0>", _line(str(value)))


def _line(text: str) -> str:
    """The text on one line, without what does not print."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _paragraphs(text: str) -> _Markdown:
    """Paragraphs of plain text, divided by empty lines."""
    lines = [_escape(part) for part in re.split(r"\n\s*\n", "\n".join(text.splitlines()))]
    return _Markdown("\n\n".join(_LINE_START.sub(_escape_start, line) for line in lines if line))


def _escape_start(match: re.Match[str]) -> str:
    """No heading, list or rule begins here; of a number it is the dot behind that is escaped."""
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _span(text: str) -> _Markdown:
    """Code within a line."""
    text = _line(text)
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return _Markdown(f"{ticks}{pad}{text}{pad}{ticks}")


def _fence(text: str, language: str = "") -> _Markdown:
    """A block of code, which nothing in it can end."""
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    ticks = "`" * max(3, _longest_run(text) + 1)
    return _Markdown("\n".join([ticks + language, *lines, ticks]))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
