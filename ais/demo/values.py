"""What the page shows of an explanation, as small JSON-able values for its components."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ais.attribution.colors import COLORS
from ais.attribution.explanation import Array, Explanation
from ais.attribution.kinds import KINDS
from ais.attribution.methods import METHODS
from ais.attribution.sums import rounded
from ais.heads.config import Config, RatingConfig
from ais.heads.regression import RatingHead
from ais.heads.tasks import TASKS

LONGEST_SIDE = 1600  # of the copy that the browser shows
AGREE = 0.8  # the share of a head's variants that must have the map's sign, or else the place is doubtful
LONGEST_WORD, LONGEST_CARD = 80, 60_000  # characters that are shown of what a head says of itself


def stem(name: str) -> str:
    """A file name's stem, fit to begin another file's name on any system."""
    cleaned = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-_")
    return cleaned[:60] or "picture"


def file_value(path: Path) -> dict[str, Any]:
    """A file that Gradio is to serve; the browser finds its address under ``url``."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def save_display_copy(image: Image.Image, folder: Path) -> Path:
    """The image as the browser shows it: at most `LONGEST_SIDE` pixels; JPEG, or PNG if it is small."""
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    path = folder / ("picture.png" if small.width * small.height <= 256**2 else "picture.jpg")
    small.save(path, quality=90)
    return path


def data_address(image: Image.Image) -> str:
    """A small image as an address that holds it."""
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def overlay_value(explanation: Explanation, name: str, image: Path) -> dict[str, Any]:
    """For `overlay.js`: the image, and the heatmap on every scale; for a stack its members' heatmaps, too."""
    return {
        "image": file_value(image),
        "name": stem(name),
        "width": explanation.placement.width,
        "height": explanation.placement.height,
        "colors": [list(color) for color in COLORS],
        **_map_value(explanation),
        "summable": METHODS[explanation.method].per_cell,
        "unitOfSum": KINDS[explanation.kind].unit,
        "spread": f"± is the standard deviation over the head’s {len(explanation.variants['points'])} variants.",
        "doubt": _doubt(explanation),
        "members": [
            {"name": short(member.head), "score": member.score, **_map_value(member)}
            for member in explanation.members
        ],
    }


def _map_value(explanation: Explanation) -> dict[str, Any]:
    """Where the network looked, the grid on every scale with its unit, and how far the head's variants agree.

    ``variants`` are their grids in points; ``doubtful`` says of a scale's cells where fewer than `AGREE` of them have
    the map's sign.
    """
    h, w = explanation.grid.shape
    scaled = {scale: replace(explanation, scale=scale) for scale in explanation.grids}
    agreement = {scale: one.agreement for scale, one in scaled.items()}
    return {
        "box": list(explanation.placement.box),
        "h": h,
        "w": w,
        "grids": {scale: grid.ravel().tolist() for scale, grid in explanation.grids.items()},
        "units": {scale: one.unit for scale, one in scaled.items()},
        "variants": [_brief(grid) for grid in explanation.variants["points"]],
        "doubtful": {
            scale: (share < AGREE).ravel().tolist() for scale, share in agreement.items() if share is not None
        },
    }


def _brief(grid: Array) -> list[float]:
    """The cells of a grid with six digits of the largest, which are enough for sums and their deviations."""
    largest = float(np.abs(grid).max())
    digits = 5 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [round(value, digits) for value in grid.ravel().tolist()]


def _doubt(explanation: Explanation) -> str:
    """What is hatched."""
    return (
        f"Hatched: fewer than {AGREE:.0%} of the head’s {len(explanation.variants['points'])} variants, which learned "
        "from different pictures, agree whether this place raises or lowers the score."
    ).replace("%", " %")


def short(text: str, most: int = LONGEST_WORD) -> str:
    """A text of someone else's on one line that is not too long."""
    text = " ".join(valid_unicode(text[: 4 * most]).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def valid_unicode(text: str) -> str:
    """A text without halves of characters (lone surrogates), which JSON may hold and no answer can."""
    return text.encode("utf-8", "replace").decode()


def title(config: Config, repository: str = "") -> str:
    """A head's name for a list of them: what it predicts, and with what or from where."""
    predicts = short(config.predicts or TASKS[config.task].label, 40)
    return f"{repository}: {predicts}" if repository else f"{predicts} ({config.backbone_label})"


def facts(config: Config) -> str:
    """How good a head is, the scale of what it predicts, and what it reads."""
    predicts = short(config.predicts or TASKS[config.task].label, 40)
    scale = ", ".join(filter(None, [predicts, config.scale]))
    reads = f"combines {len(config.parts)} heads" if config.parts else f"reads {short(config.backbone_label)}"
    return " · ".join([quality(config.metrics), scale, reads])


def quality(metrics: Mapping[str, Any]) -> str:
    """The correlation with people's ratings as the head's config claims it, if that is one."""
    plcc, low, high = (metrics.get(name) for name in ("plcc", "plcc_low", "plcc_high"))
    if not all(isinstance(value, float) and -1 <= value <= 1 for value in (plcc, low, high)):
        return "quality not measured"
    return f"PLCC {plcc:.2f} ({low:.2f} to {high:.2f})"


def score_value(explanation: Explanation, head: RatingHead) -> dict[str, Any]:
    """For `score.js`: the number, its interval and its place among the rated images."""
    low, high = explanation.interval
    share = round(explanation.level * 100)
    heads = len(explanation.members)  # whose networks may be the same one at two sizes
    made = f"{heads} heads" if heads else short(explanation.backbone)
    return {
        "target": short(explanation.target),
        "score": explanation.score,
        "low": low,
        "high": high,
        "range": list(explanation.rating_range),
        "percentile": f"Higher than {explanation.percentile:.0f} % of the rated pictures.",
        "meaning": f"a range made so that for {share} % of pictures it holds what people say on average.",
        "made": f"{made}, {explanation.seconds:.1f} s",
        "quantiles": head.rating_quantiles.tolist(),
        "sum": sum_value(explanation) if explanation.members else None,
        "parts": parts_value(explanation),
    }


def parts_value(explanation: Explanation) -> dict[str, Any] | None:
    """What the score is made of, as texts that add up; None where the method does not say it."""
    if (terms := explanation.typical_and_places) is None:
        return None
    typical, places = terms
    of = "the stack’s members" if explanation.members else "the head"
    return {
        "typical": _number(typical),
        "places": ("− " if places < 0 else "+ ") + _number(abs(places)),
        "lowers": places < 0,
        "score": f"{explanation.score:.2f}",
        "meaning": f"A typical picture is the mean over the pictures that {of} learned from, as the network sees them.",
    }


def sum_value(explanation: Explanation) -> dict[str, Any]:
    """How a stack's members make its score, as texts that add up to the last digit shown."""
    added = [m.score * weight for m, weight in zip(explanation.members, explanation.weights, strict=True)]
    *contributions, constant = rounded([*added, explanation.intercept], round(explanation.score * 100))
    scores = [member.score for member in explanation.members]
    outside = not min(scores) <= explanation.score <= max(scores)
    return {
        "members": [
            {
                "name": short(member.head),
                "score": f"{member.score:.2f}",
                "weight": f"{weight:.3f}",
                "contribution": _number(contribution),
            }
            for member, weight, contribution in zip(
                explanation.members, explanation.weights, contributions, strict=True
            )
        ],
        "constant": _number(constant),
        "score": f"{explanation.score:.2f}",
        "meaning": "The weights and the constant were fitted to people's ratings. They make no plain mean, so the "
        f"score can lie above or below the scores of all its members{', as here' if outside else ''}.",
    }


def _number(hundredths: int) -> str:
    return f"{hundredths / 100:.2f}".replace("-", "−")


def maps_value(explanation: Explanation, x: float, y: float) -> dict[str, Any]:
    """For `maps.js`: the feature maps of a place with what they are worth; for a stack with their networks.

    Maps of a method that compares them with typical ones have a ``unit``: their values are what each cell adds.

    Raises:
        ImageError: the network did not look there.
    """
    contributions, stack = explanation.contributions(x, y), bool(explanation.members)
    slopes = explanation.slopes
    compared = "" if slopes is None else ", compared with a typical picture"
    return {
        "title": f"The {len(contributions)} feature maps that matter most at this place ({int(x)}, {int(y)}). In bold: "
        f"the points that a map adds to the {'stack’s ' if stack else ''}score here{compared}. Below: those that it "
        "adds in the whole picture.",
        "items": [
            {
                "index": c.index,
                "number": c.number,
                "network": c.backbone if stack else "",
                "importance": c.importance,
                "value": c.value,
                "h": c.map.shape[0],
                "w": c.map.shape[1],
                "unit": "" if slopes is None else "points per cell",
                "values": (c.map if slopes is None else slopes[c.index] * c.map).ravel().tolist(),
            }
            for c in contributions
        ],
    }


def about_value(config: RatingConfig, card: str) -> dict[str, Any]:
    """For `about.js`: one sentence on what the score is, and the head's model card (see `card_text`)."""
    target = config.target
    ratings = f"{short(target.dataset)} ratings of {short(target.name)}".strip()
    scale = f"{target.low:g} to {target.high:g}"
    return {
        "text": f"The score is what a network that learned from {ratings} ({scale}) "
        "expects people to say on average; it is not a judgement of the picture, its maker or anyone in it.",
        "card": card,
    }


def card_text(card: str) -> str:
    """A model card without its front matter and its images, which lie beside it, not on the page."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card[:LONGEST_CARD], flags=re.DOTALL)
    lines = body.splitlines()
    return "\n".join(line for line in lines if not (line.startswith("![") and line.endswith(")"))).strip()
