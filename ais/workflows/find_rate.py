"""Looking for a learning rate, for the strategies that train the backbone."""

from __future__ import annotations

from ais.data.ratings import RatedSet
from ais.torch_state import own_state
from ais.training.cross_validation import embed_ratings, fine_tuning_start
from ais.training.finetuning import range_test
from ais.training.plan import FitContext
from ais.training.range_test import LRFinder


@own_state()
def find_rate(data: RatedSet, context: FitContext) -> LRFinder:
    """The learning-rate range test of `ais.training.finetuning.range_test`, begun as a training would.

    Raises:
        AISError: the plan's strategy trains no backbone.
        DataError: images that cannot be read, ratings all the same, images all of one group.
    """
    rated = embed_ratings(data, context.backbone, context.progress, context.cache)
    return range_test(*fine_tuning_start(rated, context))
