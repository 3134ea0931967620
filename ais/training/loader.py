"""Pictures for training a backbone: decoded once as far as they fit in memory, varied a little in every epoch.

All chance comes from a generator of (seed, epoch, picture), so that a picture is varied in the same way
whichever thread does it and whatever its batch is; no global random state is read or changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ais.errors import DataError, ImageError, listing
from ais.images.augmentation import Change
from ais.images.preprocessing import Preprocessing
from ais.images.reading import read_image

Group = tuple[np.ndarray, Tensor]  # rows (B,) of one shape, and their inputs (B, 3, h, w)

_MEMORY = 2 << 30  # bytes of decoded pictures that are kept

_THREADS = 2


class ImageLoader:
    """N images as a network takes them, on one scale with `Preprocessing`; no more than one batch in float.

    Raises:
        DataError: all pictures that cannot be read, by name.
    """

    def __init__(self, files: Sequence[Path], preprocessing: Preprocessing, memory: int = _MEMORY) -> None:
        self.files = files
        self._mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, dtype=torch.float32).view(3, 1, 1)
        self._preprocessing = preprocessing
        self._kept: dict[int, Tensor] = {}
        problems: list[str] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(files), 64):  # no more than these are held beside the kept ones
                rows = range(start, min(start + 64, len(files)))
                for row, image in zip(rows, pool.map(self._try, rows), strict=True):
                    if isinstance(image, str):
                        problems.append(image)
                    elif image.numel() <= memory:
                        memory -= image.numel()
                        self._kept[row] = image
        if problems:
            raise DataError(listing("Some pictures cannot be read", problems))

    def batches(self, parts: Sequence[np.ndarray], change: Change | None = None) -> Iterator[list[Group]]:
        """For each part, an array of rows, its pictures in groups of one shape each.

        The next part is made ready while the caller works on this one.
        """

        def ready(row: int) -> Tensor:
            kept = self._kept.get(row)
            image = self._decode(row) if kept is None else kept
            return image if change is None else change(image, row)

        with ThreadPoolExecutor(_THREADS) as pool:

            def begin(rows: np.ndarray) -> list[Future[Tensor]]:
                return [pool.submit(ready, int(row)) for row in rows]

            ahead = begin(parts[0]) if len(parts) else []
            for i, rows in enumerate(parts):
                now, ahead = ahead, begin(parts[i + 1]) if i + 1 < len(parts) else []
                yield self._grouped(rows, [future.result() for future in now])

    def _grouped(self, rows: np.ndarray, images: list[Tensor]) -> list[Group]:
        shapes: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(i)
        return [
            (rows[same], self._normalise(torch.stack([images[i] for i in same]))) for same in shapes.values()
        ]

    def _normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> float32, bit by bit what `Preprocessing` gives."""
        return (images.to(torch.float32).div(255) - self._mean) / self._std

    def _decode(self, row: int) -> Tensor:
        seen = self._preprocessing(read_image(self.files[row]))
        return ((seen * self._std + self._mean) * 255).round().to(torch.uint8)

    def _try(self, row: int) -> Tensor | str:
        try:
            return self._decode(row)
        except ImageError as error:
            return f"{self.files[row]}: {error}"
