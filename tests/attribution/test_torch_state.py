"""What a caller has set in torch neither changes a result nor stays behind: every public function is tried."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

import ais.cli
from ais.attribution.explanation import Explanation
from ais.attribution.faithfulness import measure
from ais.backbones import embeddings
from ais.backbones import loading as backbone_loading
from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import RatedSet
from ais.data.rdms import HumanRDMs
from ais.errors import AISError
from ais.heads import loading as head_loading
from ais.heads.config import Member, StackConfig
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.metrics import bootstrap
from ais.training import cross_validation
from ais.training.plan import FitContext, Plan
from ais.workflows import advise, align, combine, evaluate, find_rate, heatmaps, prune, score, train
from helpers.sets import PLAN, TARGET, TUNED, add_backbones, make_set, trained


@dataclass(frozen=True)
class World:
    """What the functions are called with."""

    data: RatedSet
    new: RatedSet
    head: Path
    tuned: Path
    stack: Path
    loaded: RegressionHead
    backbone: FrozenBackbone
    embedding: Tensor

    @property
    def picture(self) -> Path:
        return self.data.files[0]

    @property
    def pictures(self) -> cross_validation.EmbeddedRatings:
        return cross_validation.embed_ratings(self.data, self.backbone, cache=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        add_backbones(folder, patch)
        patch.setattr(bootstrap, "_RESAMPLES", 20)
        data, new = make_set(folder / "set", 24), make_set(folder / "new", 12, seed=1)
        one, _ = trained(data, folder / "one")
        two, _ = trained(data, folder / "two", backbone="little2")
        trained(data, folder / "tuned", TUNED)
        config = StackConfig(
            name="stack",
            variants=one.config.variants,
            target=TARGET,
            interval=one.config.interval,
            members=[Member(h.config.name, h.config.fingerprint) for h in (one, two)],
        )
        stack = StackedHead(config, [one, two])
        tensors = {"weight": torch.tensor([0.4, 0.7]), "rating_quantiles": torch.linspace(0, 10, 101)}
        stack.load_state_dict(tensors | {"intercept": torch.tensor(-0.5)}, strict=False)
        stack.save(folder / "stack")
        backbone = ais.load_backbone("little1", view="resize")
        embedding = embeddings.embed(data.files, backbone, cache=False).embedding
        yield World(data, new, folder / "one", folder / "tuned", folder / "stack", one, backbone, embedding)


def _judgments(world: World) -> align.StimulusSet:
    colours = np.stack([np.asarray(Image.open(file))[0, 0] for file in world.data.files[:8]]).astype(float)
    return align.StimulusSet(world.data.files[:8], HumanRDMs(squareform(pdist(colours))[None]))


def _members(world: World) -> list[RegressionHead]:
    stack = load_head(world.stack)
    assert isinstance(stack, StackedHead)
    return list(stack.members)


def _mixed(world: World) -> RatedSet:
    """New pictures with ratings to which both members of the stack have something to say."""
    heard = [
        evaluate.score_held_out(world.new, member, cache=False).scores.mean(1) for member in _members(world)
    ]
    return replace(world.new, ratings=np.clip(0.5 * heard[0] + 0.5 * heard[1], 0, 10))


def _every_method(world: World) -> list[Explanation]:
    return [ais.explain(world.picture, world.stack, method, scale="points") for method in ais.METHODS]


def _plan(world: World, strategy: str) -> Plan:
    return replace(TUNED, strategy=strategy)


Case = Callable[[World], Any]

# By name of the public function or class; what each gives is compared number by number.
CASES: dict[str, Case] = {
    "explain": _every_method,
    "score": lambda w: [ais.score(w.picture, head) for head in (w.head, w.tuned, w.stack)],
    "load_head": lambda w: [load_head(w.head).state_dict(), load_head(w.stack).state_dict()],
    "load_from": lambda w: load_head(w.tuned).state_dict(),
    "load_backbone": lambda w: ais.load_backbone("little1", view="resize").network.state_dict(),
    "FrozenBackbone": lambda w: list(w.backbone(w.backbone.preprocessing(Image.open(w.picture))[None])),
    "Preprocessing": lambda w: ais.Preprocessing(
        "resize", 32, 32, "bilinear", w.backbone.preprocessing.mean, w.backbone.preprocessing.std
    )(Image.open(w.picture)),
    "RegressionHead": lambda w: [
        (made := RegressionHead(w.loaded.config)).load_state_dict(w.loaded.state_dict()) and made.state_dict(),
        made(w.embedding),
        made.score(w.embedding),
        made.half_width(made(w.embedding)),
        made.percentile(4.2),
        made.weight_bound,
    ],
    "StackedHead": lambda w: load_head(w.stack).combine([w.loaded(w.embedding)] * 2),  # type: ignore[union-attr]
    "Explanation": lambda w: [made := ais.explain(w.picture, w.head), made.heatmap, made.density, made.to_dict()],
    "list_heads": lambda w: ais.list_heads(),
    "backbone_of": lambda w: head_loading.backbone_of(load_head(w.tuned)).network.state_dict(),
    "embed": lambda w: embeddings.embed(w.data.files, w.backbone, cache=False),
    "embed_ratings": lambda w: w.pictures,
    "stimulus_heatmap": lambda w: align.stimulus_heatmap(
        w.picture, w.backbone, np.linspace(-1, 1, 12)
    ).grid,
    "align": lambda w: align.align(_judgments(w), w.backbone, splits=0),
    "train_head": lambda w: train.train_head(
        w.data, w.backbone, name="again", target=TARGET, plan=PLAN, cache=False
    )[0].state_dict(),
    "score_held_out": lambda w: evaluate.score_held_out(w.new, load_head(w.stack), cache=False),
    "evaluate_head": lambda w: evaluate.evaluate_head(
        evaluate.score_held_out(w.data, load_head(w.tuned), cache=False), load_head(w.tuned)
    ),
    "prune_head": lambda w: prune.prune_head(w.data, load_head(w.head), name="pruned")[0].state_dict(),  # type: ignore[arg-type]
    "combine_heads": lambda w: combine.combine_heads(_mixed(w), _members(w), name="again").state_dict(),
    "find_rate": lambda w: find_rate.find_rate(w.data, FitContext(w.backbone, _plan(w, "last-k"), cache=False)),
    "faithfulness": lambda w: measure.faithfulness(
        w.data.files[:2], [w.loaded] * 2, [w.backbone], measure.Comparison(steps=2)
    ),
    "judge_heatmaps": lambda w: [
        heatmaps.judge_heatmaps(
            evaluate.score_held_out(data, load_head(head), cache=False),
            load_head(head),
            measure.Comparison(steps=2),
            pictures=3,
            cache=False,
        )
        for data, head in ((w.data, w.head), (w.new, w.stack))
    ],
    "advise": lambda w: advise.advise(w.embedding.repeat(4, 1), np.tile(w.data.ratings, 4), None, 0.9),
    "score_images": lambda w: [
        one.score for head in (w.tuned, w.stack) for one in score.score_images(w.data.files, load_head(head))
    ],
    "random_backbone": lambda w: backbone_loading.random_backbone("little1", 3).network.state_dict(),
}  # fmt: skip

# Types, registries, and functions that give names and numbers without a tensor.
WITHOUT_TORCH = {
    *(
        "BACKBONES",
        "BASELINES",
        "BackboneSpec",
        "CONVERTERS",
        "KINDS",
        "METHODS",
        "STRATEGIES",
        "TASKS",
        "Score",
        "__version__",
        "pick_device",
        "model_card",
        "backbone_spec",
        "find_head",
        "push_head",
        "view_name",
    ),
    *("choose_heatmaps", "heads_directory", "read_config", "read_stimulus_set"),
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def all_at_once() -> Iterator[None]:
    with ExitStack() as stack:
        for state in STATES.values():
            stack.enter_context(state())
        yield


STATES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast on a GPU": lambda: torch.autocast(
        "cuda", dtype=torch.float16, enabled=torch.cuda.is_available()
    ),
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
}


def forget() -> None:
    """As in a fresh process: nothing of the library is loaded."""
    backbone_loading._backbone.cache_clear()
    head_loading._head.cache_clear()


def numbers(value: Any) -> list[np.ndarray]:
    """All numbers in a result, in order, but for times."""
    if isinstance(value, Tensor):
        assert not value.is_inference() or not value.is_floating_point()
        return [value.detach().numpy()]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (int, float)):
        return [np.asarray(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [
            n
            for f in fields(value)
            if f.name not in ("seconds", "image")
            for n in numbers(getattr(value, f.name))
        ]
    if isinstance(value, dict):
        return [n for key, inner in value.items() if key != "seconds" for n in numbers(inner)]
    if isinstance(value, (list, tuple)):
        return [n for inner in value for n in numbers(inner)]
    return []


def check_equal(found: Any, wanted: Any) -> None:
    ours, theirs = numbers(found), numbers(wanted)
    assert len(ours) == len(theirs) > 0 or isinstance(wanted, list)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def public_names() -> set[str]:
    """What `import ais` offers, and what the commands call of modules that work with torch."""
    names = {
        name
        for name in ais.__all__
        if not (inspect.isclass(getattr(ais, name)) and issubclass(getattr(ais, name), AISError))
    }
    imports = [
        node
        for file in Path(ais.cli.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ais.")
    ]
    for node in imports:
        for name in node.names:
            value = getattr(importlib.import_module(str(node.module)), name.name, None)
            module = sys.modules[value.__module__] if inspect.isfunction(value) else None
            library = (
                module is not None and module.__name__.startswith("ais.") and "ais.cli" not in module.__name__
            )
            if library and "torch" in vars(module):
                names.add(value.__name__)
    return names


def test_every_public_function_has_a_case() -> None:
    missing = public_names() - CASES.keys() - WITHOUT_TORCH
    assert not missing, "what these give under a caller's state of torch is not tried: add a case for each"


@pytest.mark.parametrize("name", CASES)
def test_no_state_of_the_callers_changes_what_it_gives(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "one"))
    forget()
    wanted = case(world)
    monkeypatch.setenv("AIS_CACHE", str(tmp_path / "other"))
    forget()
    with all_at_once():
        found = case(world)
        assert torch.get_default_dtype() == torch.float64  # and the caller's state is as it was
        assert torch.get_default_device().type == "meta"
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    if name not in ("FrozenBackbone", "RegressionHead", "StackedHead"):  # tensors of the caller's own making
        check_equal(found, wanted)
    else:
        for ours, theirs in zip(_values(found), _values(wanted), strict=True):
            assert torch.equal(ours, theirs)
    check_equal(case(world), wanted)  # with what was loaded meanwhile


def _values(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return list(result.values())
    if isinstance(result, (list, tuple)):
        return [value for inner in result for value in _values(inner)]
    return []


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", ais.METHODS)
def test_each_state_alone(state: str, method: str, world: World) -> None:
    wanted = ais.explain(world.picture, world.stack, method)
    forget()
    with STATES[state]():
        found = ais.explain(world.picture, world.stack, method)
        heatmap = found.heatmap
    check_equal(found, wanted)
    np.testing.assert_array_equal(heatmap, wanted.heatmap)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_head_of_another_type_is_read_as_it_is_and_left_as_it_was(dtype: torch.dtype, world: World) -> None:
    head = load_head(world.stack).to(dtype)
    head.weight.requires_grad_()
    found = ais.explain(world.picture, head, "gradcam")
    assert found.score == pytest.approx(ais.score(world.picture, world.stack).score, abs=0.2)
    assert found.score == ais.score(world.picture, head).score
    assert head.weight.dtype == dtype
    assert head.weight.requires_grad
    assert all(member.weight1.dtype == dtype for member in head.members)  # type: ignore[union-attr]


def test_a_head_made_in_inference_mode(world: World) -> None:
    with torch.inference_mode():
        head = RegressionHead(world.loaded.config).double()
        head.load_state_dict(world.loaded.state_dict())
    check_equal(
        ais.explain(world.picture, head, "gradcam"), ais.explain(world.picture, world.loaded, "gradcam")
    )
