"""A cohort: pictures that people compared with each other, what a backbone makes of them, and which maps carry it.

The Alignment Importance Score as published (Truong, Pesenti & Hasson, arXiv 2409.16292), from a folder and people's
dissimilarities to numbers, scores of the maps and heatmaps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ais.attribution.grids import relative_grid
from ais.attribution.map_scores import MapScores
from ais.attribution.saliency import spectral_residual
from ais.backbones.embeddings import embed
from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import METADATA, picture_files
from ais.data.rdms import Judgments, read_judgments
from ais.errors import AISError, DataError
from ais.images.preprocessing import Placement, ViewName
from ais.images.reading import read_image
from ais.metrics.correlation import spearman
from ais.rsa import importance, map_selection, rdm
from ais.rsa.map_selection import GainReport
from ais.rsa.rdm import Metric
from ais.torch_state import own_state

Report = Callable[[str, int, int], None]  # stage, done, in all


@dataclass(frozen=True)
class Cohort:
    """N pictures, and P people's dissimilarities of all their pairs.

    Attributes:
        files: N paths, in the order of the matrices' rows.
        judgments: (P, N, N).
        averaged: how many people's mean the one matrix is; 0 if it is none.
    """

    files: list[Path]
    judgments: Judgments
    averaged: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How near a network's geometry of N pictures is to P people's, and what its C maps do for that.

    Every alignment is the mean over the people of Spearman's correlation with each one's matrix, so that it stands
    beside the ceiling; with a single matrix it is the published one.

    Attributes:
        alignment: with all maps; `with_mean` with the mean of the people's matrices.
        ceiling: lower and upper; None for one matrix.
        importance: (C,), AIS of each map. image_importance: (N, C), for each picture's own row.
        model_rdm, human_rdm: (N, N), the second the mean over the people.
    """

    alignment: float
    with_mean: float
    ceiling: tuple[float, float] | None
    importance: np.ndarray
    image_importance: np.ndarray
    model_rdm: np.ndarray
    human_rdm: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CohortReport(Comparison):
    """The comparison of a backbone with people on a cohort.

    Attributes:
        backbone, layer, view, metric: what was compared. pictures, people, maps: how many.
        averaged: as in `Cohort`.
        gain: what keeping the best maps does for pictures that had no part in choosing them; None if not asked for.
    """

    backbone: str
    layer: str
    view: ViewName
    metric: Metric
    pictures: int
    people: int
    averaged: int
    maps: int
    gain: GainReport | None

    @property
    def scores(self) -> MapScores:
        """For `ais.explain` with the kind ``alignment``."""
        return MapScores(
            self.backbone, self.layer, self.view, self.metric, self.alignment, self.pictures, self.importance
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON, without what is as large as the maps."""
        helps = float((self.importance > 0).mean())
        strongest = np.argsort(-self.importance, kind="stable")[:10]
        return {
            "backbone": self.backbone,
            "layer": self.layer,
            "view": self.view,
            "metric": self.metric,
            "pictures": self.pictures,
            "people": self.people,
            "averaged": self.averaged,
            "maps": self.maps,
            "alignment": self.alignment,
            "alignment_with_mean": self.with_mean,
            "ceiling": list(self.ceiling) if self.ceiling else None,
            "maps_that_help": helps,
            "strongest": [{"map": int(c), "importance": float(self.importance[c])} for c in strongest],
            "gain": self.gain.to_dict() if self.gain else None,
        }


@dataclass(frozen=True)
class Look:
    """One picture of a cohort with its heatmap.

    Attributes:
        picture: upright RGB.
        grid: (h, w) in [-1, 1], by the picture's own AIS: what brings its comparisons with the others nearer to
            people's is above 0.
        saliency: (h, w), the spectral residual on the same cells.
        placement: where the network looked.
    """

    picture: Image.Image
    grid: np.ndarray
    saliency: np.ndarray
    placement: Placement

    @property
    def agreement(self) -> float:
        """Spearman's correlation of heatmap and saliency over the cells; 0 where one of them is flat."""
        return spearman(self.grid.ravel(), self.saliency.ravel())


def read_cohort(
    folder: str | os.PathLike[str],
    rdm: str | os.PathLike[str],
    *,
    average: bool = False,
    table: str | os.PathLike[str] | None = None,
    image: str | None = None,
) -> Cohort:
    """The pictures of a folder and people's dissimilarities of them.

    Args:
        folder: with a ``metadata.csv`` whose column ``file_name`` names the pictures; else all pictures in it, by
            name. Theirs is the order of the matrices' rows, unless the matrices come with names; without a table, that
            order has to be the same in every usual way of sorting names.
        rdm: as `ais.data.rdms.read_judgments` takes it.
        average: take the mean of the people's matrices for one matrix, as published.
        table, image: another table and its column that names the pictures, as in `ais.data.ratings.picture_files`.

    Raises:
        DataError: too few pictures, or matrices that do not fit them, by number or by name, or whose order is not
            sure.
    """
    files = picture_files(folder, table=table, image=image)
    if len(files) < 3:
        raise DataError(
            f"{folder} holds {len(files)} pictures, those of its subfolders not counted: comparing takes at least "
            "three. Name the folder in which they lie, or list them in a metadata.csv."
        )
    listed = table is not None or (Path(folder) / METADATA).is_file()
    names = [file.relative_to(folder).as_posix() for file in files]
    judgments = read_judgments(rdm, len(files), names, listed=listed)
    if average:
        return Cohort(files, Judgments(judgments.mean[None]), len(judgments))
    return Cohort(files, judgments)


def map_embedding(backbone: FrozenBackbone, embedding: torch.Tensor) -> np.ndarray:
    """The pooled maps themselves, (N, C) float64: the embedding's coordinates that the target layer's maps feed.

    Raises:
        AISError: what follows the layer mixes its maps, so that none has a coordinate of its own.
    """
    if backbone.owner is None:
        raise AISError(
            f"The maps of {backbone.layer} in {backbone.name} are mixed by what comes after, so none can be left out "
            "of the embedding: choose the layer that `ais backbones` names."
        )
    return embedding[:, backbone.owner.start : backbone.owner.stop].double().cpu().numpy()


def compare(rows: np.ndarray, judgments: Judgments, metric: Metric = "correlation") -> Comparison:
    """Compare a network with people.

    Args:
        rows: (N, C), as `map_embedding` gives them.

    Raises:
        DataError: the network cannot tell the pictures apart.
    """
    rdms = judgments.rdms
    model = rdm.rdm(rows, metric)
    return Comparison(
        alignment=rdm.alignment(model, rdms),
        with_mean=rdm.alignment(model, judgments.mean),
        ceiling=rdm.noise_ceiling(rdms),
        importance=importance.importance(rows, rdms, metric),
        image_importance=importance.image_importance(rows, rdms, metric),
        model_rdm=model,
        human_rdm=judgments.mean,
    )


@own_state()
def align(
    cohort: Cohort,
    backbone: FrozenBackbone,
    view: ViewName = "whole",
    *,
    metric: Metric = "correlation",
    splits: int = 200,
    seed: int = 0,
    report: Report | None = None,
) -> CohortReport:
    """Compare a backbone with people on a cohort.

    Args:
        splits: random splits of the pictures on which pruning is judged; 0 leaves that out.
        report: called with a stage, how much of it is done, and how much there is.

    Raises:
        DataError: pictures that cannot be read, or that the backbone cannot tell apart; too few for splits.
        AISError: the layer's maps are mixed by what comes after.
    """

    def show(stage: str) -> Callable[[int, int], None] | None:
        return None if report is None else lambda done, total: report(stage, done, total)

    embedded = embed(cohort.files, backbone, view, progress=show("pictures"))
    rows, rdms = map_embedding(backbone, embedded.embedding), cohort.judgments.rdms
    comparison = compare(rows, cohort.judgments, metric)
    gain = None
    if splits:
        gain = map_selection.held_out_gain(
            rows, rdms, splits=splits, metric=metric, seed=seed, progress=show("splits")
        )
    return CohortReport(
        backbone=backbone.name,
        layer=backbone.layer,
        view=view,
        metric=metric,
        pictures=len(rows),
        people=len(rdms),
        averaged=cohort.averaged,
        maps=rows.shape[1],
        gain=gain,
        **vars(comparison),
    )


@own_state()
def look(file: Path, backbone: FrozenBackbone, view: ViewName, importance: np.ndarray) -> Look:
    """A picture's heatmap by the importance (C,) of the maps, beside what is salient in it.

    Raises:
        ImageError: the picture cannot be read.
    """
    picture = read_image(file)
    geometry = backbone.view(view)
    with torch.no_grad():
        maps = backbone(geometry.tensor(picture)[None]).maps[0]
        grid = relative_grid(maps, torch.from_numpy(importance).to(maps)).float().cpu().numpy()
    placement = geometry.place(picture.width, picture.height)
    left, top, right, bottom = (round(edge) for edge in placement.box)
    seen = np.asarray(picture.crop((left, top, right, bottom)))
    return Look(picture, grid, _cells(spectral_residual(seen), grid.shape), placement)


def _cells(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mean of each of (h, w) cells."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX), dtype=np.float64)
