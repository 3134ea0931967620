"""What `ais align` finds out about a backbone's feature maps, as a file: the published AIS of every map."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ais.errors import DataError
from ais.images.preprocessing import ViewName, view_name

FILE = "alignment.safetensors"

_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True, eq=False)
class MapImportance:
    """Alignment importance scores (Truong, Pesenti & Hasson, arXiv 2409.16292) of a backbone's feature maps.

    Attributes:
        backbone, layer, view: whose maps, and what of the pictures it saw.
        metric: between embeddings.
        alignment: Spearman's correlation of the network's and people's dissimilarities with all maps.
        images: how many pictures were compared.
        importance: (C,) float64, what each map adds to the alignment.
    """

    backbone: str
    layer: str
    view: ViewName
    metric: str
    alignment: float
    images: int
    importance: NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """The file's content."""
        words = {key: value for key, value in asdict(self).items() if key != "importance"}
        tensors = {"importance": torch.from_numpy(np.ascontiguousarray(self.importance, dtype=np.float64))}
        return save(tensors, {"ais": json.dumps(words, allow_nan=False)})


def read_map_importance(file: str | os.PathLike[str]) -> MapImportance:
    """The scores in a file that `ais align` wrote.

    Raises:
        DataError: it is none.
    """
    path = Path(file)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        with safe_open(path, framework="pt") as stream:
            words = json.loads((stream.metadata() or {})["ais"])
            importance = stream.get_tensor("importance").double().numpy()
        scores = MapImportance(**words | {"view": view_name(words["view"])}, importance=importance)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} holds no scores of feature maps: `ais align` writes them. ({error})"
        ) from error
    texts = (scores.backbone, scores.layer, scores.view, scores.metric)
    if (
        importance.ndim != 1
        or not np.isfinite(importance).all()
        or not all(isinstance(t, str) for t in texts)
    ):
        raise DataError(f"{path} holds no valid scores of feature maps: write it again with `ais align`.")
    return scores
