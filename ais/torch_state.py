"""Torch's state as a fresh process has it, whatever the caller has set: no score depends on it, and no cache keeps it.

A caller may be in `torch.inference_mode`, `torch.no_grad` or `torch.autocast`, or may have chosen another default type
or device. Some of it belongs to the thread and some to the process. So nothing is set that another thread would see:
the default type is not changed but left out of use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def own_state() -> Iterator[None]:
    """For a workflow, as a decorator of its function: all of torch's state as it is at first.

    Gradients are on, as they are at first: what needs none says so itself.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which turns gradients on, too
        stack.enter_context(own_precision())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_Float32())
        yield


@contextmanager
def own_precision() -> Iterator[None]:
    """For functions on tensors, which leave gradients to the caller: in the tensors' own type, without autocast."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


class _Float32(TorchFunctionMode):
    """New tensors are float32 where no type is given, in this thread, as `torch.device` does it for devices."""

    _FILLED = frozenset(
        (
            torch.empty,
            torch.zeros,
            torch.ones,
            torch.eye,
            torch.rand,
            torch.randn,
            torch.linspace,
            torch.logspace,
        )
    )
    _BY_VALUE = frozenset(
        (torch.tensor, torch.as_tensor, torch.asarray, torch.full, torch.arange, torch.scalar_tensor)
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if given.get("dtype") is not None or func not in self._FILLED | self._BY_VALUE:
            return func(*args, **given)
        if func in self._FILLED:
            return func(*args, **given | {"dtype": torch.float32})
        made = func(*args, **given)
        has_type = any(hasattr(value, "dtype") for value in args)  # an array's or a tensor's own
        return made if has_type or not made.is_floating_point() else made.to(torch.float32)
