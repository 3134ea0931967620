"""What the Similarity tab computes: a cohort compared with people, or with the rule of the cohort that is drawn.

All of it runs in this process: on a Space that is lent a GPU for a call alone (ZeroGPU), on the CPU.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached
from ais.backbones.registry import BACKBONES
from ais.data.rdms import Judgments, read_judgments
from ais.demo import gpu, shapes
from ais.demo.turns import Turn
from ais.errors import AISError, DataError, ImageError, listing
from ais.images.preprocessing import View, ViewName
from ais.images.reading import read_image
from ais.rsa import rdm as rsa_rdm
from ais.workflows import align
from ais.workflows.align import Comparison, Look, map_embedding

MOST = 60  # pictures
FEWEST = 3
LARGEST_MATRIX, LARGEST_UNFOLDED = 2 << 20, 8 << 20  # bytes of a file, and of what is packed in it
NUMBERS = MOST * MOST * 100  # in a matrix file: those of a hundred people
VIEW: ViewName = "whole"
DEFAULT = "efficientnet_lite0"
THUMBNAIL = 144  # pixels of the longer side


@dataclass(frozen=True)
class Pictures:
    """N pictures and what was said of them.

    Attributes:
        files, names: N paths, and what to call them.
        judgments: (P, N, N).
        by_rule: nobody was asked, a rule made the judgments.
    """

    files: list[Path]
    names: list[str]
    judgments: Judgments
    by_rule: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared(Comparison):
    """A cohort as a backbone sees it, beside what was said of it.

    Attributes:
        thumbnails: N small pictures.
        embedding: (N, C), the pooled maps.
    """

    pictures: Pictures
    backbone: str
    thumbnails: list[Image.Image]
    embedding: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.embedding)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The network's geometry and people's on a square from 0 to 1: (N, 2) each.

        People's is turned, or mirrored, to where it comes nearest to the network's: neither has a right way round.
        """
        network, people = (_unit(rsa_rdm.mds(rdm)) for rdm in (self.model_rdm, self.human_rdm))
        turn, _ = orthogonal_procrustes(people, network)
        return spread(network), spread(_unit(people @ turn))


def backbones() -> list[str]:
    """Those that can be used at once: their weights are on this machine, and every map has its coordinate."""
    here = [name for name, spec in BACKBONES.items() if spec.weights_file.is_file()]
    return [name for name in here if BACKBONES[name].channelwise[BACKBONES[name].layer] is not None]


def drawn() -> Pictures:
    """The cohort that comes with the page."""
    return Pictures(*shapes.cohort(), by_rule=True)


def uploaded_cohort(pictures: Sequence[tuple[Path, str]], matrix: tuple[Path, str] | None) -> Pictures:
    """Pictures and a matrix with their names; the matrix's rows are in the order of the pictures' names, or named.

    Raises:
        DataError: too few or too many pictures, no matrix, or one that does not fit.
    """
    if not FEWEST <= len(pictures) <= MOST:
        raise DataError(f"These are {len(pictures)} pictures. Choose from {FEWEST} to {MOST}.")
    if matrix is None:
        raise DataError(
            "There is no matrix. Choose a .npy, .mat, .csv, .tsv, .txt or .xlsx file with one row for each picture."
        )
    pictures = sorted(pictures, key=lambda picture: picture[1])
    path, name = matrix
    if path.stat().st_size > LARGEST_MATRIX:
        raise DataError(
            f"{name} is larger than {LARGEST_MATRIX >> 20} MB, too large for {MOST} pictures. Check it."
        )
    try:
        with gpu.turns.admitted(slow=True) as turn:
            judgments = turn.run(partial(_judgments, path, [name for _, name in pictures]))
    except DataError as error:  # nobody needs to know where the server keeps it
        places = f"{re.escape(str(path))}|{re.escape(path.name)}"
        raise DataError(re.sub(places, lambda _: name, str(error))) from error
    return Pictures([file for file, _ in pictures], [name for _, name in pictures], judgments)


def _judgments(path: Path, names: list[str]) -> Judgments:
    """Of a visitor's file, which may be made to unfold to more than there is memory."""
    unfolded = 0
    with (
        contextlib.suppress(Exception),
        zipfile.ZipFile(path) as archive,
    ):  # what is none, or damaged, is told below
        unfolded = sum(part.file_size for part in archive.infolist())
    if unfolded > LARGEST_UNFOLDED:
        raise DataError(
            f"{path.name} unfolds to more than {LARGEST_UNFOLDED >> 20} MB, too large for {MOST} pictures. "
            "Check it, or save it as CSV."
        )
    return read_judgments(path, len(names), names, most=NUMBERS)


def compare(pictures: Pictures, backbone: str) -> Iterator[str | Compared]:
    """Sentences of what is being done, and at last the result.

    Raises:
        DataError: all pictures that cannot be read.
        AISError: there is no such backbone here.
    """
    if pictures.by_rule and backbone in _drawn:
        yield _drawn[backbone]
        return
    with gpu.turns.admitted(slow=True) as turn:
        yield from _compare(pictures, backbone, turn)


def _compare(pictures: Pictures, backbone: str, turn: Turn) -> Iterator[str | Compared]:
    """Each step in a turn of its own: a picture that is read takes memory, too."""
    yield "Preparing the network"
    network = turn.run(lambda: _network(backbone))
    geometry = network.view(VIEW)
    thumbnails, rows, problems = [], [], []
    for number, (file, name) in enumerate(zip(pictures.files, pictures.names, strict=True), start=1):
        yield f"Looking at picture {number} of {len(pictures.files)}"
        try:
            row, thumbnail = turn.run(partial(_seen, turn, file, network, geometry))
        except ImageError as error:
            problems.append(str(error).replace(file.name, name))
            continue
        if not problems:
            rows.append(row)
            thumbnails.append(thumbnail)
    if problems:
        raise DataError(listing("Some pictures cannot be read", problems))
    yield "Leaving out one feature map after another"
    turn.progress()

    def leave_out() -> tuple[np.ndarray, Comparison]:
        embedding = map_embedding(network, torch.cat(rows))
        return embedding, align.compare(embedding, pictures.judgments)

    embedding, comparison = turn.run(leave_out)
    compared = Compared(
        pictures=pictures, backbone=backbone, thumbnails=thumbnails, embedding=embedding, **vars(comparison)
    )
    if pictures.by_rule:
        _drawn[backbone] = compared
    yield compared


def _seen(turn: Turn, file: Path, network: FrozenBackbone, geometry: View) -> tuple[Tensor, Image.Image]:
    """A picture's embedding (1, D), and a small copy."""
    turn.progress()
    picture = read_image(file)
    row = network(geometry.tensor(picture)[None]).embedding
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return row, picture


def look_at(compared: Compared, number: int, importance: np.ndarray) -> Look:
    """A picture of the cohort with its heatmap by the importance (C,) of the maps.

    Raises:
        ImageError: the picture is no longer there.
    """
    file = compared.pictures.files[number]
    with gpu.turns.admitted() as turn:
        return turn.run(lambda: align.look(file, _network(compared.backbone), VIEW, importance))


def alike(rdm: np.ndarray, i: int, j: int) -> float:
    """The share of the other pairs that are less alike than this one, ties as half."""
    others = rdm[np.triu_indices(len(rdm), 1)]
    more, same = (others > rdm[i, j]).sum(), (others == rdm[i, j]).sum() - 1
    return float((more + same / 2) / (len(others) - 1))


def spread(places: np.ndarray) -> np.ndarray:
    """Places (N, 2) in [-1, 1] on a square from 0 to 1, moved apart as far as their pictures would hide each other."""
    places = (places + 1) / 2
    count = len(places)
    gap = min(0.16, 0.6 / count**0.5)
    # Where two coincide, each goes its own way, always the same.
    turn = np.arange(count) * 2.4
    places = places + 1e-4 * np.stack([np.cos(turn), np.sin(turn)], 1)
    for _ in range(200):
        apart = places[:, None] - places
        distance = np.linalg.norm(apart, axis=2) + np.eye(count)
        push = np.maximum(gap - distance, 0) / 2
        if not push.any():
            break
        places = np.clip(places + (apart * (push / distance)[..., None]).sum(1), 0, 1)
    return np.asarray(places)


def _unit(places: np.ndarray) -> np.ndarray:
    """The same geometry, in [-1, 1]."""
    return places / (np.abs(places).max() or 1)


_drawn: dict[str, Compared] = {}  # the drawn cohort is everybody's, and never changes


def _network(backbone: str) -> FrozenBackbone:
    if backbone not in backbones():
        raise AISError(f"There is no such network here. Choose one of: {', '.join(backbones())}.")
    return backbone_cached(backbone, BACKBONES[backbone].layer, "cpu" if gpu.LENT else "auto")
