"""How the MLPs of a head are fitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a variant is fitted; the defaults were chosen on a plateau, not on a peak.

    Of 8 to 512 hidden units 32 are the fewest that lose nothing against 512 in cross-validation, for any of five heads
    on OASIS and with any of five seeds (``python -m benchmarks.hidden_units``): 16 lose on arousal with one of the
    seeds, 8 on beauty. With other numbers of units the learning rate goes with 1 / sqrt(hidden), 1e-3 at 512 and 4e-3
    at 32. The second layer's weights are that large at the start, and a step of AdamW is as large as the rate,
    whatever the weights are.

    Attributes:
        components: principal components of the embedding that the MLP learns from, at most.
        hidden: units of the hidden layer; for others than 32 change the learning rate, too.
        dropout: share of the hidden units silenced at each step; none is as good, in half the time.
        learning_rate, weight_decay: of AdamW.
        batch: pictures a step.
        epochs: at most; `patience` epochs without a better validation loss end it earlier.
        validation: share of the pictures kept for that.
    """

    components: int = 200
    hidden: int = 32
    dropout: float = 0.0
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    batch: int = 64
    epochs: int = 60
    patience: int = 5
    validation: float = 0.1
