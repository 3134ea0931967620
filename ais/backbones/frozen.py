"""`FrozenBackbone`: a pretrained network that never changes, cut at the layer that is explained."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, fx, nn
from typing_extensions import Self

from ais.backbones.graph import before_pooling, fuse, split
from ais.errors import AISError, out_of_memory
from ais.images.preprocessing import Preprocessing, sized
from ais.images.reading import read_image
from ais.torch_state import own_precision, own_state

_ENOUGH = 16  # places by which it can be told what is averaged over them
_WIDTH = 4096  # numbers in a row of those that are summed together
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


class Features(NamedTuple):
    """What one forward pass gives for a batch of N images.

    Attributes:
        maps: the target layer's output, (N, C, h, w).
        embedding: the globally pooled vector, (N, D).
        delta: by how much ablating map c alone changes the one coordinate of the embedding that it
            feeds, (N, C); None where the tail mixes the maps, so that no such coordinate exists.
        side_inputs: what the tail needs beside the maps, such as the residual; each (N, ...).
    """

    maps: Tensor
    embedding: Tensor
    delta: Tensor | None
    side_inputs: tuple[Tensor, ...]


class FrozenBackbone(nn.Module):
    """A pretrained network cut at its target layer: image -> feature maps -> embedding.

    Frozen means that no parameter takes a gradient **and** that BatchNorm's statistics stay as they are:
    the network is in eval mode for good, whatever ``.train()`` is called on it or around it.

    Args:
        network: gives the embedding (N, D) for a batch (N, 3, H, W) of any size; becomes part of this one. For
            float64, give it in float64: the trunk's folded weights are made in its type.
        layer: the target layer, as in ``network.named_modules()``.
        preprocessing: how an image becomes the network's input, at the size that is the network's own.
        embedding_slice: the coordinates of the embedding that the maps feed, in their order, where the tail treats
            each map on its own; None where it does not, or where that is not known.
    """

    @own_state()
    def __init__(
        self,
        network: nn.Module,
        name: str,
        layer: str,
        preprocessing: Preprocessing,
        embedding_slice: range | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.layer = layer
        self.network = network.eval()
        self.trunk, self.tail = split(network, layer)
        fuse(self.trunk)
        self.preprocessing = preprocessing
        self.native = preprocessing
        self.embedding_slice = embedding_slice
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions
        self._hashes: dict[str, object] = {}  # shared by the views and sizes of one network
        self._fits: set[int] = set()  # sizes that were tried; shared, too
        self._before_pooling: dict[str, fx.GraphModule] = {}  # found when it is first wanted
        self._made = self._checksums()

    @own_precision()
    def forward(self, images: Tensor | Image.Image, keep: Tensor | None = None) -> Features:
        """One forward pass, and two runs of the tail: with the maps, and with all of them zero.

        Args:
            images: (N, 3, H, W), as `preprocessing` makes them, moved to the network's device and type; or one image,
                for which N is 1.
            keep: (C,) bool; the maps where it is False are ablated from the start, as a pruned head wants it.

        Raises:
            AISError: the target layer gives no feature maps, or not as many as `keep` speaks of.
        """
        parameter = next(self.network.parameters())
        if isinstance(images, Image.Image):
            images = self.preprocessing(read_image(images))[None]
        images = images.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            maps, *side_inputs = self.trunk(images)
            if maps.ndim != 4:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.ndim}-dimensional values, not "
                    "feature maps (N, C, h, w): choose a convolutional layer."
                )
            if keep is not None and len(keep) != maps.shape[1]:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.shape[1]} feature maps, not {len(keep)}."
                )
            if keep is not None and not keep.all():
                maps = torch.where(keep[:, None, None], maps, 0)
            embedding = self.tail(maps, *side_inputs)
            delta = None
            if self.embedding_slice is not None:
                # Each map feeds a coordinate of its own, so ablating all of them in one run gives
                # every single ablation at once.
                delta = (self.tail(torch.zeros_like(maps), *side_inputs) - embedding)[
                    :, self.embedding_slice.start : self.embedding_slice.stop
                ]
        return Features(maps, embedding, delta, tuple(side_inputs))

    @own_precision()
    def places(self, features: Features) -> Tensor | None:
        """What the embedding is the mean of: (N, D, h, w), the network's vector at each of h × w places.

        Args:
            features: as `forward` gives them, so without the maps that it did not keep.

        Returns:
            None where the embedding is no mean over places. Of an input so small that it may have one place alone, that
            place is the embedding.
        """
        maps, side_inputs = features.maps, features.side_inputs
        with torch.no_grad():
            if "part" not in self._before_pooling:
                # By what it does to any values, since those of a picture may be the same everywhere.
                generator = torch.Generator().manual_seed(0)
                drawn = [torch.rand(v.shape, generator=generator).to(v) for v in (maps, *side_inputs)]
                part = before_pooling(self.tail, drawn[0], drawn[1:])
                if part is None:  # of a larger input it may be another
                    few = maps.shape[2:].numel() < _ENOUGH
                    return features.embedding[:, :, None, None] if few else None
                self._before_pooling["part"] = part
            places: Tensor = self._before_pooling["part"](maps, *side_inputs)
            return places

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in eval mode: a frozen network's BatchNorm must not drift."""
        return super().train(False)

    def with_preprocessing(self, view: str | None = None, size: int | None = None) -> Self:
        """The same network, its weights shared, with another view or size of its input. None: as it is here.

        Raises:
            AISError: no such view; or a size that cannot be asked for (see `Preprocessing.at`) or is too small for
                this network.
        """
        here = self.preprocessing
        preprocessing = self.native.at(
            here.view if view is None else view, here.size if size is None else size
        )
        if preprocessing == here:
            return self
        self._check_size(preprocessing.size)
        other = copy.copy(self)
        other.preprocessing = preprocessing
        return other

    def _check_size(self, size: int) -> None:
        """That nothing is left out of so small an input's maps: tried out, since no network says it."""
        if size >= self.native.size or size in self._fits:
            return
        parameter = next(self.network.parameters())
        try:
            with torch.no_grad():
                self.network(torch.zeros((1, 3, size, size), device=parameter.device, dtype=parameter.dtype))
        except RuntimeError as error:
            if out_of_memory(error):  # which says nothing of the network
                raise
            raise AISError(
                f"{self.name} cannot read pictures at {size} pixels: choose a larger size (its own is "
                f"{self.native.size})."
            ) from error
        self._fits.add(size)

    @property
    def label(self) -> str:
        """Its name, and its size where that is not the network's own."""
        return sized(self.name, self.preprocessing.size, self.native.size)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def sha256(self) -> str:
        """What the network is known by: the first 16 hex digits of a SHA-256.

        Of all that it computes with: for each parameter and buffer, in the order of ``network.state_dict()``, the
        name in UTF-8 and then the values as they lie in memory, row-major and little-endian. Computed again only when
        a tensor was written to; what is written through ``tensor.data`` is not noticed here, but by `changed`.
        """
        state = self.network.state_dict()
        written = tuple(
            (t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in state.values()
        )
        if self._hashes.get("of") != written:
            digest = hashlib.sha256()
            for name, value in state.items():
                digest.update(name.encode())
                digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
            self._hashes.update(of=written, sha256=digest.hexdigest()[:16])
        return str(self._hashes["sha256"])

    def changed(self) -> bool:
        """Whether a tensor holds other values than when this was made, in whatever way they came there.

        The trunk's folded weights are made then, so that `sha256` says nothing of what such a network gives.
        """
        return self._checksums() != self._made

    @own_state()
    def _checksums(self) -> list[int]:
        """For each tensor the sum of its bits and that of the bits times their places, which take about as long as
        reading the memory; so that values that have changed places are noticed, too."""
        parts = (self.network, self.trunk, self.tail)
        bits = [t.detach().view(_BITS[t.element_size()]) for part in parts for t in _tensors(part)]
        return [number for each in bits for number in _moments(each)]


def _moments(bits: Tensor) -> list[int]:
    """``sum(b)`` and ``sum(i * b)`` of whole numbers, i being the place in row-major order, each modulo 2**64."""
    if not bits.numel():
        return [0, 0]
    flat = bits.flatten()  # row-major, whatever the layout in memory
    whole = len(flat) // _WIDTH * _WIDTH
    body, rest = flat[:whole].view(-1, _WIDTH), flat[whole:].to(torch.int64)
    columns, rows = body.sum(0, dtype=torch.int64), body.sum(1, dtype=torch.int64)
    place = torch.arange(max(_WIDTH, len(rows)), device=bits.device)
    total = rows.sum() + rest.sum()
    placed = (columns * place[:_WIDTH]).sum() + _WIDTH * (rows * place[: len(rows)]).sum()
    return torch.stack([total, placed + (rest * (place[: len(rest)] + whole)).sum()]).tolist()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
