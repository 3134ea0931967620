"""What `ais align` does: compare a backbone with people, and score the feature maps that carry the match.

The Alignment Importance Score as published (Truong, Pesenti & Hasson, arXiv 2409.16292), from a folder and people's
dissimilarities to numbers, scores of the maps and heatmaps.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ais.attribution.grids import relative_grid
from ais.attribution.map_importance import MapImportance
from ais.attribution.saliency import spectral_residual
from ais.backbones.embeddings import embed
from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import METADATA, image_files
from ais.data.rdms import HumanRDMs, read_human_rdms
from ais.errors import AISError, DataError
from ais.images.preprocessing import Placement, ViewName
from ais.images.reading import read_image
from ais.metrics.correlation import spearman
from ais.progress import Progress, StageProgress
from ais.rsa import importance, rdm
from ais.rsa.map_selection import SelectionPlan, SelectionReport, evaluate_selection
from ais.rsa.rdm import Metric
from ais.torch_state import own_state


@dataclass(frozen=True, eq=False)
class StimulusSet:
    """N images, and P people's dissimilarities of all their pairs.

    Attributes:
        files: N paths, in the order of the matrices' rows.
        human_rdms: (P, N, N).
        n_averaged: how many people's mean the one matrix is; 0 if it is none.
    """

    files: list[Path]
    human_rdms: HumanRDMs
    n_averaged: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class RSAResult:
    """How well a network's RDM of N images matches P people's, and what its C maps do for that.

    Each correlation is the mean over the people of Spearman's correlation with each one's matrix, to be compared with
    the noise ceiling; with a single matrix it is the published one.

    Attributes:
        rdm_correlation: with all maps. rdm_correlation_with_mean: that with the mean of the people's matrices.
        ceiling: the noise ceiling, lower and upper; None for one matrix.
        importance: (C,), AIS of each map. image_importance: (N, C), for each image's own row.
        model_rdm, human_rdm: (N, N), the second the mean over the people.
    """

    rdm_correlation: float
    rdm_correlation_with_mean: float
    ceiling: tuple[float, float] | None
    importance: np.ndarray
    image_importance: np.ndarray
    model_rdm: np.ndarray
    human_rdm: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class RSAReport(RSAResult):
    """The comparison of a backbone with people on a stimulus set.

    Attributes:
        backbone, layer, view, metric: what was compared. images, people, maps: how many.
        n_averaged: as in `StimulusSet`.
        selection: what keeping the best maps does on images that had no part in choosing them; None if not asked for.
    """

    backbone: str
    layer: str
    view: ViewName
    metric: Metric
    images: int
    people: int
    n_averaged: int
    maps: int
    selection: SelectionReport | None

    @property
    def scores(self) -> MapImportance:
        """For `ais.explain` with the kind ``alignment``."""
        return MapImportance(
            self.backbone,
            self.layer,
            self.view,
            self.metric,
            self.rdm_correlation,
            self.images,
            self.importance,
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
            "pictures": self.images,
            "people": self.people,
            "averaged": self.n_averaged,
            "maps": self.maps,
            "rdm_correlation": self.rdm_correlation,
            "rdm_correlation_with_mean": self.rdm_correlation_with_mean,
            "ceiling": list(self.ceiling) if self.ceiling else None,
            "maps_that_help": helps,
            "strongest": [{"map": int(c), "importance": float(self.importance[c])} for c in strongest],
            "gain": self.selection.to_dict() if self.selection else None,
        }


@dataclass(frozen=True, eq=False)
class StimulusHeatmap:
    """One image of a stimulus set with its heatmap.

    Attributes:
        image: upright RGB.
        grid: (h, w) in [-1, 1], by the image's own AIS: above 0 is what brings its comparisons with the others nearer
            to people's.
        saliency: (h, w), the spectral residual on the same cells.
        placement: which part of the image the network saw.
    """

    image: Image.Image
    grid: np.ndarray
    saliency: np.ndarray
    placement: Placement

    @property
    def saliency_correlation(self) -> float:
        """Spearman's correlation of heatmap and saliency over the cells; 0 where one of them is flat."""
        return spearman(self.grid.ravel(), self.saliency.ravel())


def read_stimulus_set(
    folder: str | os.PathLike[str],
    rdm: str | os.PathLike[str],
    *,
    average: bool = False,
    table: str | os.PathLike[str] | None = None,
    image: str | None = None,
) -> StimulusSet:
    """The images of a folder and people's dissimilarities of them.

    Args:
        folder: with a ``metadata.csv`` whose column ``file_name`` names the images; else all images in it, by
            name. Theirs is the order of the matrices' rows, unless the matrices come with names; without a table, that
            order has to be the same in every usual way of sorting names.
        rdm: as `ais.data.rdms.read_human_rdms` takes it.
        average: take the mean of the people's matrices for one matrix, as published.
        table, image: another table and its column that names the images, as in `ais.data.ratings.image_files`.

    Raises:
        DataError: too few images, or matrices that do not fit them, by number or by name, or whose order is not
            sure.
    """
    files = image_files(folder, table=table, image=image)
    if len(files) < 3:
        raise DataError(
            f"{folder} holds {len(files)} pictures, those of its subfolders not counted: comparing takes at least "
            "three. Name the folder in which they lie, or list them in a metadata.csv."
        )
    listed = table is not None or (Path(folder) / METADATA).is_file()
    names = [file.relative_to(folder).as_posix() for file in files]
    human = read_human_rdms(rdm, len(files), names, listed=listed)
    if average:
        return StimulusSet(files, HumanRDMs(human.mean[None]), len(human))
    return StimulusSet(files, human)


def map_embedding(backbone: FrozenBackbone, embedding: torch.Tensor) -> np.ndarray:
    """The pooled maps themselves, (N, C) float64: the embedding's coordinates that the target layer's maps feed.

    Raises:
        AISError: what follows the layer mixes its maps, so that none has a coordinate of its own.
    """
    if backbone.embedding_slice is None:
        raise AISError(
            f"The maps of {backbone.layer} in {backbone.name} are mixed by what comes after, so none can be left out "
            "of the embedding: choose the layer that `ais backbones` names."
        )
    return embedding[:, backbone.embedding_slice.start : backbone.embedding_slice.stop].double().cpu().numpy()


def compare_with_people(
    embedding: np.ndarray, human_rdms: HumanRDMs, metric: Metric = "correlation"
) -> RSAResult:
    """Compare a network's RDM with people's.

    Args:
        embedding: (N, C), as `map_embedding` gives it.

    Raises:
        DataError: the network cannot tell the images apart.
    """
    rdms = human_rdms.rdms
    model = rdm.rdm(embedding, metric)
    return RSAResult(
        rdm_correlation=rdm.rdm_correlation(model, rdms),
        rdm_correlation_with_mean=rdm.rdm_correlation(model, human_rdms.mean),
        ceiling=rdm.noise_ceiling(rdms),
        importance=importance.importance(embedding, rdms, metric),
        image_importance=importance.image_importance(embedding, rdms, metric),
        model_rdm=model,
        human_rdm=human_rdms.mean,
    )


@own_state()
def align(
    stimuli: StimulusSet,
    backbone: FrozenBackbone,
    *,
    metric: Metric = "correlation",
    splits: int = 200,
    seed: int = 0,
    progress: StageProgress | None = None,
) -> RSAReport:
    """Compare a backbone with people on a stimulus set.

    Args:
        splits: random splits of the images on which map selection is tested; 0 leaves that out.
        progress: called with a stage ("pictures" or "splits"), how much of it is done, and how much there is.

    Raises:
        DataError: images that cannot be read, or that the backbone cannot tell apart; too few for splits.
        AISError: the layer's maps are mixed by what comes after.
    """

    def show(stage: str) -> Progress | None:
        return None if progress is None else functools.partial(progress, stage)

    embedded = embed(stimuli.files, backbone, progress=show("pictures"))
    rows, rdms = map_embedding(backbone, embedded.embedding), stimuli.human_rdms.rdms
    result = compare_with_people(rows, stimuli.human_rdms, metric)
    selection = None
    if splits:
        plan = SelectionPlan(splits=splits, seed=seed)
        selection = evaluate_selection(rows, rdms, plan, metric=metric, progress=show("splits"))
    return RSAReport(
        backbone=backbone.name,
        layer=backbone.layer,
        view=backbone.preprocessing.view,
        metric=metric,
        images=len(rows),
        people=len(rdms),
        n_averaged=stimuli.n_averaged,
        maps=rows.shape[1],
        selection=selection,
        **vars(result),
    )


@own_state()
def stimulus_heatmap(file: Path, backbone: FrozenBackbone, importance: np.ndarray) -> StimulusHeatmap:
    """An image's heatmap by the importance (C,) of the maps, beside its saliency.

    Raises:
        ImageError: the image cannot be read.
    """
    image = read_image(file)
    with torch.no_grad():
        maps = backbone(image).maps[0]
        grid = relative_grid(maps, torch.from_numpy(importance).to(maps)).float().cpu().numpy()
    placement = backbone.preprocessing.geometry(image.width, image.height)
    left, top, right, bottom = (round(edge) for edge in placement.box)
    seen = np.asarray(image.crop((left, top, right, bottom)))
    return StimulusHeatmap(image, grid, _cells(spectral_residual(seen), grid.shape), placement)


def _cells(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mean of each of (h, w) cells."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX), dtype=np.float64)
