"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights; and stacks of such heads.

A head's folder on disk is read by `ais.heads.format`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from typing_extensions import Self

from ais.errors import HeadError
from ais.heads.config import CARD, CONFIG, WEIGHTS, Config
from ais.io.files import write_atomically
from ais.io.hub import Repository
from ais.torch_state import own_state

if TYPE_CHECKING:
    from typing_extensions import Self


_PLAIN = (torch.float32, torch.int64, torch.bool)  # types of a head's tensors


class Head(nn.Module, PyTorchModelHubMixin):
    """What all heads have: the tensors of their config, the score's interval and percentile, a folder on disk.

    `from_pretrained`, `save_pretrained` and `push_to_hub` are the names that users of the Hub's client know for
    `ais.load_head`, for `save` with a model card, and for `ais push`.

    Tensors: rating_quantiles (101,) (of the ratings it was trained on, at 0, 1 … 100 %), seen (S,) int64 (see
    `content_key`). They are buffers: a trained head takes no gradient.
    """

    rating_quantiles: Tensor
    seen: Tensor
    folder: Path | None = None  # where it was loaded from
    repository: Repository | None = None  # of the Hub, at its commit, if it came from there
    notice: str = ""  # why it may not be the newest: the Hub could not be asked
    public: bool = False  # whether it was fetched as everybody may

    @own_state()
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Any = config
        for name, shape in config.shapes().items():
            kind = torch.int64 if name == "seen" else torch.float32
            self.register_buffer(name, torch.zeros(shape, dtype=kind))

    def plain(self) -> Self:
        """This head, or a float32 copy of it where its tensors are of another type, take gradients, or were made in
        `torch.inference_mode`, so that what is computed with it is the same for all and nothing of its owner's changes.
        """
        if all(t.dtype in _PLAIN and not (t.requires_grad or t.is_inference()) for t in self.buffers()):
            return self
        twin = self._twin()
        twin.load_state_dict({name: value.detach() for name, value in self.state_dict().items()})
        for name in ("folder", "repository", "notice", "public"):
            setattr(twin, name, getattr(self, name))
        return twin.to(self.rating_quantiles.device).eval()

    def _twin(self) -> Self:
        """A head of the same config, all of whose tensors are 0."""
        raise NotImplementedError

    def interval(self, scores: Tensor) -> Tensor:
        """Half the width of the score's interval: the variants' scores (N, K) -> (N,), in points."""
        calibration = self.config.interval
        return calibration.factor * (calibration.error**2 + scores.var(-1, correction=0)).sqrt()

    def finite(self, values: Tensor, what: str = "score") -> Tensor:
        """The values that the head gave, which are of no use unless all are finite.

        Raises:
            HeadError: one is not.
        """
        if not values.isfinite().all():
            raise HeadError(
                f"The head {self.config.name!r} gives no finite {what} here, since its weights are too large: choose "
                "another, or train it anew."
            )
        return values

    def within_scale(self, value: float) -> float:
        """The value, or the end of the rating scale that it is beyond.

        An interval cut off so loses no rating that is possible, so that it holds as many ratings as before.
        """
        target = self.config.target
        return float(min(max(value, target.low), target.high))

    def percentile(self, score: float) -> float:
        """The share of rated pictures that people rated below this score, in percent (0 to 100)."""
        quantiles = self.rating_quantiles.cpu()
        above = int(torch.searchsorted(quantiles, torch.tensor(score, dtype=quantiles.dtype, device="cpu")))
        if above == 0:
            return 0.0
        if above == len(quantiles):
            return 100.0
        low, high = quantiles[above - 1].item(), quantiles[above].item()
        return min(max(above - 1 + (score - low) / (high - low), 0.0), 100.0)

    def has_seen(self, hashes: Sequence[str]) -> list[bool]:
        """Which pictures it was trained on, by the SHA-256 of their files."""
        seen = set(self.seen.tolist()) if self.config.seen else set()
        return [content_key(value) in seen for value in hashes]

    def save(
        self,
        directory: str | os.PathLike[str],
        card: str | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> list[Path]:
        """Write the head's folder: ``config.json``, ``model.safetensors`` and its card as ``README.md``.

        Args:
            extra: more files of the folder, by name, such as the card's pictures.

        Raises:
            AISError: the directory cannot be written; then nothing was.
        """
        own = self.config.shapes()
        data = save_tensors(
            {
                name: value.to(torch.int64 if name == "seen" else torch.float32).cpu().contiguous()
                for name, value in self.state_dict().items()
                if name in own
            }
        )
        config = asdict(self.config) | {"weights_sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = self._carried() | {CONFIG: text.encode(), WEIGHTS: data} | dict(extra or {})
        return write_atomically(directory, files if card is None else files | {CARD: card.encode()})

    def _carried(self) -> dict[str, bytes]:
        """Files that go with the head from folder to folder."""
        return {}

    # The client's own ways would load with missing weights, or from a pickle, and save the members of a stack with it.
    # (Each import is local because these modules stand above this one.)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, revision: str | None = None
    ) -> Self:
        """`ais.load_head`: strict, and never from a pickle.

        Raises:
            HeadError: it is no such head, or not a valid one; HubError: it cannot be fetched.
        """
        from ais.heads.loading import load_head

        head = load_head(pretrained_model_name_or_path, revision)
        if not isinstance(head, cls):
            raise HeadError(f"{head.config.name!r} is a {type(head).__name__}, not a {cls.__name__}.")
        return head

    def _save_pretrained(self, save_directory: Path) -> None:
        from ais.publish.card import PICTURES, model_card

        there = self.folder or save_directory
        pictures = {
            name: (there / name).read_bytes() for name in PICTURES.values() if (there / name).is_file()
        }
        self.save(save_directory, model_card(self.config), pictures)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, private: bool = False, branch: str | None = None
    ) -> str:
        """Publish the head: `ais.publish.push.push_head` of its folder as `save_pretrained` writes it.

        Returns:
            The address of the commit.

        Raises:
            HeadError: the head is not fit to be published; HubError: the Hub refuses, or cannot be reached.
        """
        from ais.publish.push import push_head, repository_to_push

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_head(Path(folder), repository_to_push(repo_id, branch), private=private).url


def content_key(sha256: str) -> int:
    """The first 64 bits of a file's SHA-256 (hexadecimal) as a signed number: what a head keeps of a picture."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)
