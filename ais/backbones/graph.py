"""Cutting a network in two at a layer, so that what lies after the layer can be run again on its own.

A network is traced once (``torch.fx``) and its graph divided: the **trunk** holds everything that does not
depend on the target layer's output, up to and including that layer; the **tail** holds the rest. Values of
the trunk that the tail also needs (a residual, the other branches of a concatenation) are handed over as
side inputs. The two share the network's parameters, and running one after the other does the operations of
one forward pass, so nothing has to be hooked and nothing is left behind.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from timm.layers import get_notrace_modules
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ais.errors import AISError

_OUT_OF_PLACE: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
}


class _Tracer(fx.Tracer):
    """Keeps whole what timm says cannot be traced, such as TensorFlow's "same" padding."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(get_notrace_modules())) or super().is_leaf_module(m, module_qualified_name)


def resolve_layer(network: nn.Module, layer: str) -> str:
    """The layer's name in this network.

    Papers that wrap a network as ``nn.Sequential(*network.children())`` number its children: their
    ``features.7.2.conv3`` is ``layer4.2.conv3`` of a ResNet. That spelling is understood.

    Raises:
        AISError: no such layer.
    """
    names = dict(network.named_modules()).keys() - {""}
    if layer in names:
        return layer
    prefix, _, rest = layer.partition(".")
    number, _, rest = rest.partition(".")
    children = [name for name, _ in network.named_children()]
    if prefix == "features" and number.isdecimal() and int(number) < len(children):
        renamed = f"{children[int(number)]}.{rest}".rstrip(".")
        if renamed in names:
            return renamed
    near = difflib.get_close_matches(layer, sorted(names), n=3)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise AISError(f"There is no layer {layer!r} in this network.{hint}")


def split(network: nn.Module, layer: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a network at the output of one layer.

    Args:
        network: takes one tensor, gives one tensor; in eval mode, since the mode is traced too.
        layer: the module whose output is the cut, as in ``network.named_modules()``.

    Returns:
        ``trunk``: input -> (the layer's output, *side_inputs values), and ``tail``: (output, *side_inputs) -> the
        network's output. The tail may be run any number of times: nothing in it works in place.

    Raises:
        AISError: the network's output does not depend on the layer, or it cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # tracing runs the network's own code, so anything may come
        raise AISError(
            f"This network cannot be split at a layer: torch.fx could not trace it ({error})."
        ) from error
    target = _output_of(graph, layer)
    downstream = _downstream(target)
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if result not in downstream and result is not target:
        raise AISError(
            f"The embedding does not depend on the layer {layer!r} (it was not used in eval mode)."
        )

    in_tail = [node for node in graph.nodes if node in downstream and node.op != "output"]
    side_inputs: list[fx.Node] = []
    for node in in_tail:
        side_inputs += [
            i
            for i in node.all_input_nodes
            if i not in downstream and i is not target and i not in side_inputs
        ]

    trunk = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    wanted = _upstream([target, *side_inputs])
    for node in graph.nodes:
        if node in wanted:
            copied[node] = trunk.node_copy(node, copied.__getitem__)
    trunk.output(tuple(copied[node] for node in (target, *side_inputs)))

    tail = fx.Graph()
    copied = {node: tail.placeholder(f"value{i}") for i, node in enumerate((target, *side_inputs))}
    for node in in_tail:
        copied[node] = tail.node_copy(node, copied.__getitem__)
        _work_out_of_place(network, copied[node])
    tail.output(copied[result])
    return fx.GraphModule(network, trunk), fx.GraphModule(network, tail)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each of its nodes gives."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def before_pooling(
    tail: fx.GraphModule, maps: Tensor, side_inputs: Sequence[Tensor]
) -> fx.GraphModule | None:
    """The part of a tail before its global pooling, found by what it gives for these maps.

    Args:
        tail: as `split` gives it. maps, side_inputs: what it takes, with more than one place.

    Returns:
        The last part of it whose output (N, D, h, w) has the network's output (N, D) for its mean over the places;
        None if there is none.
    """
    recorder = _Recorder(tail)
    embedding = recorder.run(maps, *side_inputs)
    tolerance = 1e-4 * embedding.abs().max()
    for node in reversed(list(tail.graph.nodes)):
        value = recorder.values.get(node)
        if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[2:].numel() == 1:
            continue
        pooled = value.mean((2, 3))
        if pooled.shape == embedding.shape and bool(((pooled - embedding).abs() <= tolerance).all()):
            break
    else:
        return None
    part = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for other in tail.graph.nodes:
        if other.op == "placeholder" or other in _upstream([node]):
            copied[other] = part.node_copy(other, copied.__getitem__)
    part.output(copied[node])
    return fx.GraphModule(tail, part)


def fuse(graph: fx.GraphModule) -> None:
    """Fold every BatchNorm in eval mode into the convolution just before it, in place: the same function in
    fewer passes over the memory (a fifth of an EfficientNet's time). The modules themselves are not changed.
    """
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in graph.graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or node.args[0].op != "call_module":
            continue
        before = node.args[0]
        convolution = modules[before.target]
        alone = len(before.users) == 1 and calls[before.target] == calls[node.target] == 1
        if isinstance(convolution, nn.Conv2d) and alone:
            graph.add_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            graph.add_submodule(
                node.target, getattr(norm, "act", nn.Identity())
            )  # timm's norm holds its ReLU


def _output_of(graph: fx.Graph, layer: str) -> fx.Node:
    """The node that makes the layer's output: the last one traced inside it."""
    inside = [
        node
        for node in graph.nodes
        if (node.op == "call_module" and node.target == layer)
        or any(path == layer for path, _ in node.meta.get("nn_module_stack", {}).values())
    ]
    if not inside:
        raise AISError(f"The layer {layer!r} is not used when the network is run in eval mode.")
    return inside[-1]


def _downstream(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        users = [user for user in stack.pop().users if user not in found]
        found.update(users)
        stack += users
    return found


def _upstream(nodes: list[fx.Node]) -> set[fx.Node]:
    found = set(nodes)
    stack = list(nodes)
    while stack:
        inputs = [i for i in stack.pop().all_input_nodes if i not in found]
        found.update(inputs)
        stack += inputs
    return found


def _work_out_of_place(network: nn.Module, node: fx.Node) -> None:
    """The tail runs again and again on the same maps, so it must not overwrite them."""
    name = str(node.target)
    if node.op == "call_module":
        for module in network.get_submodule(name).modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010  not declared by nn.Module
    elif node.op == "call_function":
        node.target = _OUT_OF_PLACE.get(node.target, node.target)  # type: ignore[arg-type]
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_method" and re.fullmatch(r"[a-z]\w*[a-z]_", name):  # add_, but not __getitem__
        node.target = name[:-1]
