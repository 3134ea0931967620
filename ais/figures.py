"""The pictures of a training, of an evaluation and of a cohort, each as the bytes of a file."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import stats

from ais.attribution.colors import colorize, overlay
from ais.attribution.explanation import Explanation
from ais.images.reading import read_image
from ais.rsa.map_selection import GainReport
from ais.training.range_test import RateCurve
from ais.workflows.align import Look

# Okabe and Ito's colours, which colour-blind people tell apart.
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#5c6670"
_INK, _GRID = "#1f2933", "#e3e7eb"
_DPI = 150  # 8 inches are 1200 pixels
_COLUMNS, _CELL, _GAP = 5, 224, 20  # of the contact sheet, in pixels
_LETTERS = 17  # height of a caption's, in pixels
_WIDTH, _PAIR_GAP, _BAR = 1200, 4, (400, 18)  # of the examples' sheet, in pixels; the bar is that of colours


def learning_curve(curves: np.ndarray, stopped: Sequence[int]) -> bytes:
    """Training and validation loss of every variant by epoch, their means, and where each variant stopped.

    Args:
        curves: (K, E, 2), training and validation loss, NaN after a variant has stopped.
        stopped: the epoch of each variant, from 1, whose weights were kept.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.8)
    epochs = np.arange(1, curves.shape[1] + 1)
    for part, (name, color) in enumerate((("training", _BLUE), ("validation", _ORANGE))):
        losses = curves[..., part]
        # A variant that has stopped counts with its last loss: a mean over the others alone would jump.
        last = np.maximum.accumulate(np.where(np.isfinite(losses), np.arange(len(epochs)), 0), axis=1)
        axes.plot(epochs, losses.T, color=color, alpha=0.3, linewidth=0.9)
        mean = np.take_along_axis(losses, last, axis=1).mean(0)
        axes.plot(epochs, mean, color=color, linewidth=2.6, label=f"{name}, mean of variants")
    kept = np.asarray(stopped)
    heights = curves[np.arange(len(kept)), kept - 1, 1]
    axes.scatter(
        kept, heights, s=34, facecolor="white", edgecolor=_ORANGE, linewidth=1.4, zorder=3, label="kept epoch"
    )
    axes.set(xlabel="epoch", ylabel="mean squared error (standardised ratings)")
    axes.set(xlim=(1, max(2, len(epochs)) + 0.2), ylim=(0, 1.05 * np.nanmax(curves)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)


def rate_curve(curve: RateCurve) -> bytes:
    """The loss at each learning rate, of every trial and smoothed; and the rate that is suggested, if there is one.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.6)
    for number, losses in enumerate(curve.curves):
        name = f"{len(curve.curves)} trials" if number == 0 else None
        axes.plot(curve.rates, losses, color=_BLUE, alpha=0.35, linewidth=1.0, label=name)
    finite = np.isfinite(curve.losses)
    smoothed = np.where(finite, curve.losses, np.nan)
    axes.plot(curve.rates, smoothed, color=_BLUE, linewidth=2.6, label="smoothed")
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="training loss", xlim=(curve.rates[0], curve.rates[-1])
    )
    # From zero, so that a loss that hardly changes looks like one; what explodes at the end is cut off.
    axes.set_ylim(min(0.0, float(np.min(curve.losses[finite]))), 2 * float(curve.losses[0]))
    if curve.suggested is None:
        words = textwrap.fill(f"No rate can be suggested: {curve.reason}.", 80)
        axes.set_title(words, loc="left", color=_INK, size=12, pad=12)
    else:
        at = float(np.interp(np.log(curve.suggested), np.log(curve.rates[finite]), curve.losses[finite]))
        axes.axvline(curve.suggested, color=_ORANGE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.scatter(
            [curve.suggested], [at], s=46, color=_ORANGE, zorder=3, label=f"suggested: {curve.suggested:.1e}"
        )
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)


def scatter(
    predicted: np.ndarray,
    rated: np.ndarray,
    low: float,
    high: float,
    target_name: str,
    metrics: Mapping[str, float],
) -> bytes:
    """Predicted against rated, with the line where both are equal.

    Args:
        predicted, rated: (N,), in points.
        low, high: the ends of the rating scale.
        target_name: the word for what is rated.
        metrics: as `ais.metrics.regression.metrics` gives them.

    Returns:
        PNG.
    """
    figure, axes = _canvas(7.0, 7.0)
    ends = (min(low, float(predicted.min())), max(high, float(predicted.max())))
    axes.plot(ends, ends, color=_GREY, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.scatter(rated, predicted, s=26, color=_BLUE, alpha=0.45, linewidth=0, zorder=2)
    margin = 0.02 * (ends[1] - ends[0])
    limits = (ends[0] - margin, ends[1] + margin)
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel=f"{target_name}, rated",
        ylabel=f"{target_name}, predicted",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_title(
        f"PLCC {metrics['plcc']:.3f} ({metrics['plcc_low']:.3f} to {metrics['plcc_high']:.3f}), "
        f"RMSE {metrics['rmse']:.2f}, {len(rated):,} pictures",
        loc="left",
        color=_INK,
        size=12,
        pad=12,
    )
    return _png(figure)


def contact_sheet(pictures: Sequence[Path], captions: Sequence[str]) -> bytes:
    """Thumbnails in five columns on white, under each its file's name and its caption.

    Args:
        pictures: N paths.
        captions: N short lines, such as "rated 2.1, predicted 4.3".

    Returns:
        JPEG.

    Raises:
        ImageError: a picture cannot be read.
    """
    font, small = ImageFont.load_default(_LETTERS), ImageFont.load_default(_LETTERS - 2)
    cells = [(_thumbnail(p), caption, p.name) for p, caption in zip(pictures, captions, strict=True)]
    rows = [cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)]
    heights = [max(thumbnail.height for thumbnail, _, _ in row) for row in rows]
    step, words = _CELL + _GAP, 3 * _LETTERS
    sheet = Image.new(
        "RGB", (_COLUMNS * step + _GAP, sum(heights) + len(rows) * (words + _GAP) + _GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        below = top + height  # the pictures stand on their captions, each in the middle of its column
        for column, (thumbnail, caption, name) in enumerate(row):
            middle = _GAP + column * step + _CELL // 2
            sheet.paste(thumbnail, (middle - thumbnail.width // 2, below - thumbnail.height))
            draw.text((middle, below + 8), _fit(caption, font), _INK, font, "ma")
            draw.text((middle, below + 12 + _LETTERS), _fit(name, small), _GREY, small, "ma")
        top = below + words + _GAP
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()


def example_sheet(explanations: Sequence[Explanation]) -> bytes:
    """Pictures beside their heatmaps, two pairs a row on white, with the scores below and one colour bar at the end.

    Args:
        explanations: N, of one head.

    Returns:
        PNG of 256 colours, 1200 pixels wide.
    """
    margin, font = 2 * _GAP, ImageFont.load_default(_LETTERS + 3)
    width = (_WIDTH - 3 * margin) // 2  # of a pair
    pairs = [(_pair(explanation, width), _score(explanation)) for explanation in explanations]
    rows = [pairs[first : first + 2] for first in range(0, len(pairs), 2)]
    heights = [max(pair.height for pair, _ in row) for row in rows]
    step = 2 * _LETTERS + margin  # from the foot of a row to the head of the next, with the captions between
    sheet = Image.new("RGB", (_WIDTH, margin + sum(heights) + len(rows) * step + _BAR[1] + margin), "white")
    draw = ImageDraw.Draw(sheet)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        left = (_WIDTH - len(row) * width - (len(row) - 1) * margin) // 2  # a row of one stands in the middle
        for column, (pair, caption) in enumerate(row):
            middle = left + column * (width + margin) + width // 2
            sheet.paste(pair, (middle - pair.width // 2, top + height - pair.height))
            draw.text((middle, top + height + 8), _fit(caption, font, width), _INK, font, "ma")
        top += height + step
    ramp = colorize(np.linspace(-1, 1, _BAR[0], dtype=np.float32))
    left = (_WIDTH - _BAR[0]) // 2
    sheet.paste(Image.fromarray(np.repeat(ramp[None], _BAR[1], axis=0)), (left, top))
    line = top + _BAR[1] // 2
    draw.text((left - 12, line), "lowers the score", _INK, font, "rm")
    draw.text((left + _BAR[0] + 12, line), "raises the score", _INK, font, "lm")
    data = io.BytesIO()
    _in_few_colors(sheet).save(data, "PNG", optimize=True)
    return data.getvalue()


def _in_few_colors(sheet: Image.Image) -> Image.Image:
    """The sheet with a palette, a third of the size: dithered, so that heatmaps stay smooth; white stays white."""
    palette = sheet.quantize(255, kmeans=3)
    chosen = np.array(sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    chosen[(np.asarray(sheet) == 255).all(-1)] = 255
    result = Image.fromarray(chosen)
    result.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])
    return result


def _pair(explanation: Explanation, width: int) -> Image.Image:
    """A picture and its heatmap, side by side."""
    cell = (width - _PAIR_GAP) // 2
    sides = [
        ImageOps.contain(picture, (cell, cell), Image.Resampling.LANCZOS)
        for picture in (explanation.image, explanation.overlay())
    ]
    pair = Image.new("RGB", (2 * sides[0].width + _PAIR_GAP, sides[0].height), "white")
    pair.paste(sides[0], (0, 0))
    pair.paste(sides[1], (sides[0].width + _PAIR_GAP, 0))
    return pair


def _score(explanation: Explanation) -> str:
    low, high = explanation.interval
    return f"{explanation.target} {explanation.score:.2f} ({low:.2f} to {high:.2f})"


def _thumbnail(path: Path) -> Image.Image:
    picture = read_image(path)
    picture.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return picture


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int = _CELL) -> str:
    """The text if it fits the width, else its beginning and its end."""
    short = text = "".join(c if c.isprintable() else "?" for c in text)
    kept = len(text)
    while font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the common style, of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=_GREY, labelcolor=_INK, labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, size=12)
    return figure, axes


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


# Of a cohort's report ---------------------------------------------------------------------------------------


def pruning_curve(gain: GainReport, ceiling: tuple[float, float] | None) -> bytes:
    """Alignment on held-out pictures against the number of maps kept: by AIS, at random, and all of them.

    Args:
        ceiling: what the best of all models would reach, lower and upper, on all pictures.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.8)
    sizes = np.array(gain.sizes)
    if ceiling:
        axes.axhspan(*ceiling, color=_GRID, zorder=0, label="noise ceiling")
    whole = float(gain.alignment_all.mean())
    axes.axhline(whole, color=_GREY, linewidth=1.2, linestyle=(0, (5, 3)), label="all maps")
    for values, color, label in (
        (gain.curve, _ORANGE, "kept by AIS"),
        (gain.random_curve, _BLUE, "kept at random"),
    ):
        low, high = np.quantile(values, (0.25, 0.75), axis=0)  # half of the splits lie between
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, values.mean(0), color=color, linewidth=2.4, marker="o", markersize=4, label=label)
    axes.set(
        xscale="log",
        xlabel="feature maps kept (shaded: half of the splits)",
        ylabel="alignment, held-out pictures",
    )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=9, rotation=45)
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)


def rdm_pair(model: np.ndarray, human: np.ndarray, names: tuple[str, str]) -> bytes:
    """Two dissimilarity matrices (N, N) side by side, as ranks from alike to unlike.

    Returns:
        PNG.
    """
    figure, both = _panels(2, 10.0, 5.0)
    upper = np.triu_indices(len(model), 1)
    for axes, matrix, name in zip(both, (model, human), names, strict=True):
        shown = np.zeros_like(matrix, dtype=float)
        shown[upper] = (stats.rankdata(matrix[upper]) - 1) / max(1, len(upper[0]) - 1)
        image = axes.imshow(shown + shown.T, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name, loc="left", color=_INK, size=12)
        axes.set_xlabel("picture", color=_INK)
        axes.grid(visible=False)
    bar = figure.colorbar(image, ax=list(both), shrink=0.8, ticks=(0, 1))
    bar.ax.set_yticklabels(("alike", "unlike"), color=_INK)
    bar.set_label("rank of the pair", color=_INK)
    return _png(figure)


def importances(values: np.ndarray) -> bytes:
    """The scores of all maps (C,), the strongest first, and how many help.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.2)
    ordered = np.sort(values)[::-1]
    places = np.arange(1, len(ordered) + 1)
    axes.fill_between(
        places, ordered, 0, where=ordered > 0, color=_ORANGE, alpha=0.85, linewidth=0, step="mid"
    )
    axes.fill_between(places, ordered, 0, where=ordered < 0, color=_BLUE, alpha=0.85, linewidth=0, step="mid")
    axes.axhline(0, color=_GREY, linewidth=0.8)
    helping = int((values > 0).sum())
    axes.set(xlim=(0, len(ordered) + 1), xlabel="feature maps, the strongest first", ylabel="AIS")
    # Most maps do next to nothing: a linear scale would show no more than the few that do.
    least = max(float(np.median(np.abs(values))), 1e-12)
    axes.set_yscale("symlog", linthresh=least)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 * least))
    axes.set_title(f"{helping:,} of {len(values):,} maps help", loc="left", color=_INK, size=12)
    return _png(figure)


def look_sheet(looks: Sequence[Look], captions: Sequence[str]) -> bytes:
    """For each picture a row of three: the picture, its AIS heatmap over it, and what is salient in it.

    Args:
        looks: N. captions: N short lines.

    Returns:
        PNG.
    """
    figure, grid = _panels(3 * len(looks), 8.0, 2.75 * len(looks) + 0.3, columns=3)
    for n, (one, caption) in enumerate(zip(looks, captions, strict=True)):
        heat = overlay(one.picture, one.placement.upsample(one.grid.astype(np.float32)), 0.75)
        saliency = one.placement.upsample(one.saliency.astype(np.float32))
        for axes, image in zip(grid[3 * n : 3 * n + 2], (one.picture, heat), strict=True):
            axes.imshow(np.asarray(image))
        grid[3 * n + 2].imshow(saliency, cmap="gray")
        for axes in grid[3 * n : 3 * n + 3]:
            axes.set_axis_off()
        grid[3 * n].set_title(caption, loc="left", color=_INK, size=11)
        if n == 0:
            grid[1].set_title("AIS heatmap", loc="left", color=_INK, size=11)
            grid[2].set_title("salient", loc="left", color=_INK, size=11)
    return _png(figure)


def _panels(count: int, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    columns = columns or count
    found = [figure.add_subplot(-(-count // columns), columns, place + 1) for place in range(count)]
    for axes in found:
        axes.tick_params(colors=_GREY, labelcolor=_INK, labelsize=9)
    return figure, found
