"""The workflow of `ais score`: many pictures, one after the other, as fast as the network allows."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ais.attribution.explain import score, score_of
from ais.attribution.explanation import Score
from ais.backbones.embeddings import ImageFile, Rows, embed_each
from ais.backbones.frozen import FrozenBackbone
from ais.errors import HeadError, ImageError
from ais.heads.loading import backbone_of
from ais.heads.regression import RatingHead, RegressionHead
from ais.training.pruning import ablate


@dataclass(frozen=True)
class Scored:
    """A picture's score, or the sentence why it has none."""

    score: Score | None
    error: str = ""


def score_images(
    images: Sequence[ImageFile], head: RatingHead, *, device: str = "auto", cache: bool = True
) -> Generator[Scored, None, None]:
    """The scores of pictures, in their order, each as soon as it is known.

    They are those of `ais.score` but for the last bits of a float32 (1e-4 points at most), since a network sees
    several pictures at once.

    Args:
        cache: keep what the backbones see, and read it where it is kept (`ais.backbones.embeddings.cache_directory`):
            then a
            second run takes the time of reading the files.

    Raises:
        HeadError, WeightsError: as `ais.score`. A picture that cannot be read raises nothing.
    """
    head = head.on("cpu")
    members = head.members
    backbones = [backbone_of(member, device) for member in members]
    if any(
        member.config.pruned and backbone.embedding_slice is None
        for member, backbone in zip(members, backbones, strict=True)
    ):
        yield from _one_by_one(images, head, device)  # what is cached is of all maps
        return
    for embedded in embed_each(images, backbones, cache=cache):
        if embedded.problem:
            yield Scored(None, embedded.problem)
            continue
        with torch.no_grad():
            scores = [
                _variants(*each) for each in zip(members, backbones, embedded.rows, strict=True)
            ]  # M times (1, K)
            combined = head.combine(scores)
            yield Scored(score_of(head, combined))


def _variants(head: RegressionHead, backbone: FrozenBackbone, rows: Rows) -> Tensor:
    """The scores of a head's variants for one picture, (1, K), on the CPU."""
    embedding = rows["embedding"][None]
    if embedding.shape[1] != head.config.dim:
        raise HeadError(
            f"The head {head.config.name!r} reads {head.config.dim} values, but its backbone gives "
            f"{embedding.shape[1]}."
        )
    if backbone.embedding_slice is not None and len(head.keep) != len(backbone.embedding_slice):
        raise HeadError(
            f"The head {head.config.name!r} has {len(head.keep)} feature maps, but its backbone gives "
            f"{len(backbone.embedding_slice)}."
        )
    if backbone.embedding_slice is not None and head.config.pruned:
        embedding, _ = ablate(embedding, rows["delta"][None], backbone.embedding_slice, head.keep)
    return head(embedding)


def _one_by_one(images: Sequence[ImageFile], head: RatingHead, device: str) -> Iterator[Scored]:
    for image in images:
        try:
            yield Scored(score(image, head, device=device))
        except ImageError as error:
            yield Scored(None, str(error))
