"""The strategies of transfer learning: which parts of a backbone learn, and at which rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ais.errors import AISError
from ais.training.recipe import Recipe

if TYPE_CHECKING:  # the functions import it, so that the strategies can be listed without PyTorch
    from torch import nn

# What the rate of `ais.training.recipe.Recipe` amounts to in `ais.training.finetuning`: there the MLP reads principal
# components, here, with OASIS and EfficientNet-Lite0, values whose magnitudes add up to 5.6 times as much.
_HEAD_RATE = Recipe().learning_rate / 5


@dataclass(frozen=True)
class Strategy:
    """One way to use a backbone; adding one is adding an entry to `STRATEGIES`.

    Attributes:
        label: a few words for it.
        about: one sentence for a list.
        why: the sentence of `ais.workflows.advise` where it is advised.
        trains: which blocks of the backbone learn.
        head_first: it starts from a head that was fitted on the frozen backbone: the gradients of a random
            one would spoil what the backbone knows (Kumar et al. 2022, arXiv 2202.10054).
        pretrained: the backbone starts from its pretrained weights; from random ones if not.
        layerwise: the rate falls from the output to the input, by `FineTuneConfig.layer_decay` a block.
        learning_rate: of the head and of the backbone's last block, for AdamW, unless `FineTuneConfig` says another.
        frozen_norm: BatchNorm stays as it is, statistics, scale and shift.
    """

    label: str
    about: str
    why: str
    trains: Literal["nothing", "last", "all"] = "all"
    head_first: bool = True
    pretrained: bool = True
    layerwise: bool = False
    # What has learnt already goes on 2 to 10 times more slowly. The head's rate is high because its units are few (see
    # `Recipe`); the backbone's weights are as many as ever, so of these the slowest.
    learning_rate: float = _HEAD_RATE / 10
    frozen_norm: bool = True

    @property
    def trains_backbone(self) -> bool:
        return self.trains != "nothing"

    def uses(self, setting: str) -> bool:
        """Whether a field of `FineTuneConfig` changes anything."""
        needed = {"last_k": self.trains == "last", "layer_decay": self.layerwise}
        return self.trains_backbone and needed.get(setting, True)


STRATEGIES: dict[str, Strategy] = {
    "head": Strategy(
        "head only",
        "The backbone stays as it is; only the head learns.",
        "So only the head learns: a backbone with millions of weights would overfit these pictures.",
        trains="nothing",
    ),
    "head-then-all": Strategy(
        "head, then everything",
        "The head learns first, then everything together at a rate that is several times lower.",
        "So the head learns first and then everything, slowly: there are enough pictures for it, and what the "
        "backbone knows is worth keeping.",
    ),
    "layerwise": Strategy(
        "everything, early blocks least",
        "Everything learns, each block of the backbone at a lower rate than the one after it.",
        "So everything learns, the early blocks least: what they see in pictures is needed for any task, what the "
        "late ones make of it has to change.",
        layerwise=True,
    ),
    "last-k": Strategy(
        "head and last blocks",
        "The last blocks of the backbone learn with the head, the others stay.",
        "So the last blocks learn with the head: they hold what is special to a task, and the earlier ones, "
        "which serve for any picture, cannot be spoilt by so few.",
        trains="last",
    ),
    "scratch": Strategy(
        "everything, from random weights",
        "Everything learns from random weights: for very large sets of pictures unlike photographs.",
        "So everything may learn from random weights: there are enough pictures, and the backbone knows next to "
        "nothing that helps. Compare with `layerwise`, which takes less time.",
        head_first=False,
        pretrained=False,
        frozen_norm=False,
        learning_rate=_HEAD_RATE,
    ),
}


@dataclass(frozen=True)
class FineTuneConfig:
    """How a backbone is fine-tuned.

    Attributes:
        learning_rate: of the head and of the backbone's last block, for AdamW; the strategy's own if None.
        weight_decay: of AdamW.
        batch: pictures a step.
        epochs: at most; `patience` epochs without a better validation loss end it earlier. The rates fall
            to zero over all of them, along a half cosine.
        validation: share of the pictures kept for that.
        last_k: blocks that learn in "last-k".
        layer_decay: from each block to the one before it, in "layerwise".
        augment: vary the pictures trained on, as `ais.images.augmentation.augment`.
    """

    learning_rate: float | None = None
    weight_decay: float = 1e-2
    batch: int = 16
    epochs: int = 10
    patience: int = 3
    validation: float = 0.1
    last_k: int = 2
    layer_decay: float = 0.85
    augment: bool = True


def get_strategy(name: str) -> Strategy:
    """The registry's entry.

    Raises:
        AISError: no such strategy.
    """
    try:
        return STRATEGIES[name]
    except KeyError:
        raise AISError(f"There is no strategy {name!r}. Choose one of: {', '.join(STRATEGIES)}.") from None


def blocks(network: nn.Module) -> list[list[str]]:
    """The network's parameters in blocks, from the input to the output.

    A block is the largest module that is more than a sequence of others: a residual block, an Inception
    module, a convolution of a VGG. What only scales and shifts, such as a BatchNorm on its own, belongs to
    the block before it; what the network itself holds, such as a class token, to the first one.

    Returns:
        For each block the names of the modules in it that hold parameters of their own: every parameter is
        one of ``network.get_submodule(name).parameters(recurse=False)``, for exactly one name.
    """
    found: list[list[str]] = []
    for name, unit in _units("", network):
        holders = [f"{name}.{inner}".strip(".") for inner, module in unit.named_modules() if _own(module)]
        if found and all(parameter.ndim < 2 for parameter in unit.parameters()):
            found[-1] += holders
        elif holders:
            found.append(holders)
    if _own(network) and found:
        found[0].insert(0, "")
    return found


def _units(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from torch import nn

    sequence = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and not _own(module)
    if sequence or not name:
        for inner, child in module.named_children():
            yield from _units(f"{name}.{inner}".strip("."), child)
    else:
        yield name, module


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def parameter_groups(network: nn.Module, strategy: Strategy, tuning: FineTuneConfig) -> list[dict[str, Any]]:
    """The backbone's parameters that learn, for an optimiser: a group a block, the last block first.

    Each group has a rate ``lr`` of its own. (timm's `param_groups_layer_decay` writes an ``lr_scale``
    instead, which torch's optimisers do not read.)

    Raises:
        AISError: `FineTuneConfig.last_k` blocks are more than there are.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    rate = learning_rate(strategy, tuning)
    parts = blocks(network)
    if strategy.trains == "last":
        if not 1 <= tuning.last_k <= len(parts):
            raise AISError(
                f"The last {tuning.last_k} blocks cannot be trained: this backbone has {len(parts)}. "
                f"Choose from 1 to {len(parts)}."
            )
        parts = parts[-tuning.last_k :]
    groups = []
    for depth, names in enumerate(reversed(parts if strategy.trains_backbone else [])):
        modules = [network.get_submodule(name) for name in names]
        learning = [m for m in modules if not (strategy.frozen_norm and isinstance(m, _BatchNorm))]
        if parameters := [parameter for module in learning for parameter in _own(module)]:
            factor = tuning.layer_decay**depth if strategy.layerwise else 1
            groups.append({"params": parameters, "lr": rate * factor})
    return groups


def learning_rate(strategy: Strategy, tuning: FineTuneConfig) -> float:
    return strategy.learning_rate if tuning.learning_rate is None else tuning.learning_rate
