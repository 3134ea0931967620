"""What each place adds to the score of a typical picture, so that all places add up to the score."""

from __future__ import annotations

from torch import Tensor

from ais.attribution.baselines import check_typical
from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.importance import path_gradient
from ais.errors import AISError

_ROUNDING = 1e-3  # of the rating scale: what float32 may lose, and no more


def contribution(forward_pass: ForwardPass, importance: Tensor) -> Drawing:
    """The shares of places in the difference between the score and that of the typical embedding, in points.

    The head's score is followed from the mean embedding t of its training pictures along the straight line to the
    picture's g. The mean gradient on the way, times ``g - t``, shares out the difference of the scores among the
    coordinates without a rest (Integrated Gradients: Sundararajan et al., arXiv 1703.01365; as a way to share costs:
    Aumann & Shapley, Values of Non-Atomic Games, 1974); for a two-layer ReLU head it is exact (`path_gradient`). And
    since g is the mean over the places of what the network has there, a place's share is the same gradient times how
    far it is from typical. So the score of the typical embedding and all cells, or all maps, add up to the score; a
    place like t counts for nothing; and only what the network computes matters, not how it is cut into layers. It
    does not say what the score would be if a place were changed: the network was not run on another picture.

    Args:
        importance: not used: the method has maps of its own, the coordinates of the embedding.

    Raises:
        HeadError: the head holds no typical embedding.
        AISError: the backbone's embedding is not a mean over places.
    """
    backbone, head = forward_pass.backbone, forward_pass.head
    check_typical(head)
    places = backbone.places(forward_pass.features)
    if places is None:
        raise AISError(
            f"The method 'contribution' needs an embedding that is the mean over a picture's places, which that of "
            f"{backbone.name} is not: choose the method 'ais'."
        )
    start, end = forward_pass.typical_hidden.double(), forward_pass.hidden.double()
    gradient = path_gradient(start, end, head)[0]  # (K, D)
    away = places[0].double() - head.typical.double()[:, None, None]  # (D, h, w)
    cells = away[0].numel()
    slopes = gradient / cells
    points = (slopes @ away.flatten(1)).unflatten(1, away.shape[1:])
    scores, typical = head.readout(end)[0], head.readout(start)[0]
    rest = scores - typical - points.sum((1, 2))
    target = head.config.target
    if not (rest.abs() <= _ROUNDING * (target.high - target.low)).all():
        raise AISError(
            f"The places of {backbone.name} do not add up to its embedding: choose the method 'ais'."
        )
    points = points + rest[:, None, None] / cells  # the rounding of float32
    return Drawing(points, importance=slopes * away.sum((1, 2)), maps=away, slopes=slopes.mean(0))
