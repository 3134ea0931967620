"""Model cards: exactly what the generator prints, and readable by the Hub's own library."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ais.crossvalidation import Plan
from ais.heads import Config, HeadConfig, Interval, Member, StackConfig, Target
from ais.cards import CURVE, model_card
from ais.loading import heads_directory, list_heads, load_head
from ais.pruning import PruningReport
from ais.strategies import STRATEGIES, Tuning
from conftest import make_head

HEADINGS = (
    "## Use",
    "## How well it does",
    "## The data",
    "## What it is for, and what it is not",
    "## Files",
)


def measures(plcc: float) -> dict[str, float]:
    values = {"plcc": plcc, "srcc": 0.5, "krcc": 0.4, "rmse": 0.81, "mae": 0.6}
    ends = {f"{name}_{end}": value for name, value in values.items() for end in ("low", "high")}
    return values | ends


FOLDED = measures(0.625) | {"pictures": 60, "groups": 20, "folds": 5, "grouped": True, "ceiling": 0.987}
AGREEMENT = {"before": {"plcc": 0.5, "rmse": 0.9}, "after": {"plcc": 0.6, "rmse": 0.8}}
DIFFERENCE = {
    "plcc": 0.1,
    "plcc_low": -0.02,
    "plcc_high": 0.3,
    "rmse": -0.1,
    "rmse_low": -0.2,
    "rmse_high": 0.1,
}
PRUNING = asdict(PruningReport("greedy", 1280, 77, AGREEMENT, AGREEMENT, DIFFERENCE, False))


def config(**fields: Any) -> HeadConfig:
    made = make_head("efficientnet_lite0", "conv_head", dim=24, channels=24).config
    recipe = {"command": "ais train data --out test-head"} | Plan().to_dict() | {"target": "beauty_mean"}
    return replace(made, **({"metrics": FOLDED, "recipe": recipe, "seen": 60} | fields))


def stack(**fields: Any) -> StackConfig:
    return StackConfig(
        name="two-together",
        variants=3,
        target=Target("beauty", 1, 7, "made for a test"),
        interval=Interval(0.9, 0.5, 1.6),
        members=[Member("one", "1" * 64), Member("two", "2" * 64)],
        metrics=FOLDED | {"over_best": {"head": "two"} | DIFFERENCE},
        recipe={"command": "ais combine data --head one --head two --out two-together"},
        **fields,
    )


def tuned(strategy: str = "last-k", **fields: Any) -> HeadConfig:
    plan = Plan(strategy=strategy, tuning=Tuning(last_k=3, **fields))
    return config(recipe=plan.to_dict(), tuned_sha256="f" * 64)


CARDS: dict[str, Config] = {
    "head": config(),
    "with a test": config(metrics=FOLDED | {"test": measures(0.711) | {"pictures": 17}}),
    "tuned": tuned(),
    "from scratch": tuned("scratch", learning_rate=3e-4),
    "pruned": config(
        metrics=measures(0.44) | {"pictures": 15, "groups": 5, "pruning": PRUNING},
        pruned=[0, 3, 5],
        about="Mine.",
    ),
    "stack": stack(about="Photographs that people rated."),
    "not measured": config(metrics={}, recipe={}),
    "of a network of timm's": config(backbone="timm:resnet18.a1_in1k"),
    "of a newer AIS": config(backbone="resnext9000", recipe=Plan().to_dict() | {"strategy": "magic"}),
    "without groups": config(metrics=FOLDED | {"grouped": False}),
}


@pytest.mark.parametrize("name", list_heads())
def test_shipped_cards_are_what_the_generator_prints(name: str) -> None:
    folder, shipped = heads_directory() / name, load_head(name).config
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == model_card(shipped)
    data = ModelCard(text).data
    assert data.license == "apache-2.0"
    metrics = {result.metric_name.split()[0]: result.metric_value for result in data.eval_results}
    assert metrics["PLCC"] == pytest.approx(shipped.metrics["plcc"], abs=1e-4)
    for heading in HEADINGS:
        assert heading in text
    assert f"ais {'combine' if isinstance(shipped, StackConfig) else 'train'} oasis" in text
    assert (CURVE in text) == (folder / CURVE).is_file()


@pytest.mark.parametrize("kind", CARDS)
def test_every_kind_of_card_is_whole(kind: str) -> None:
    text = model_card(CARDS[kind])
    card = ModelCard(text)
    assert card.data.model_name == CARDS[kind].name
    assert (card.data.eval_results is None) == (not CARDS[kind].metrics)
    assert card.text.lstrip().startswith(f"# {CARDS[kind].name}\n")
    for heading in HEADINGS:
        assert text.count(f"{heading}\n") == 1
    assert not re.search(
        r"\bnone\b|\{\{|\}\}|\{%|%\}|\bnan\b|Undefined| \.|\.\.\s|\n{4}", text, re.IGNORECASE
    )
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):  # the dividing line is the second
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert table.splitlines()[1] == "| --- | --- | --- |"


@pytest.mark.parametrize(
    ("kind", "says", "does_not"),
    [
        (
            "head",
            ["5-fold", "20 groups of pictures are never split", "0.625", "above about\n0.987"],
            ["pruned"],
        ),
        ("with a test", ["On 17 test pictures that were kept out", "0.711"], []),
        ("tuned", ["a tuned `efficientnet_lite0`", "`backbone.safetensors`", "last k 3"], ["frozen `"]),
        ("from scratch", ["learning rate 0.0003"], []),
        (
            "pruned",
            [
                "3 of its 24 feature maps",
                "15 test pictures in 5 groups",
                "+0.100 (-0.020 to +0.300)",
                "no gain",
            ],
            ["fold cross", "--about", "60 pictures", CURVE],
        ),
        ("stack", ["2 heads, `one`, `two`", "best member, `two`", "Photographs that"], ["--about", CURVE]),
        ("not measured", ["Nothing has been measured", "has not said whose"], ["PLCC", "| measure"]),
        ("without groups", ["every picture is scored"], ["groups of pictures are never split"]),
    ],
)
def test_each_kind_says_what_it_is(kind: str, says: list[str], does_not: list[str]) -> None:
    text = model_card(CARDS[kind])
    for words in says:
        assert words in text
    for words in does_not:
        assert words not in text


def test_the_settings_of_head_and_tuning_are_told_apart() -> None:
    text = model_card(tuned(learning_rate=None, epochs=4))
    settings, tuning = text.partition("Tuning: ")[::2]
    assert "epochs 60" in settings
    assert "learning rate 0.001" in settings
    assert "epochs 4" in tuning
    assert f"learning rate {STRATEGIES['last-k'].learning_rate}" in tuning


def test_a_base_model_is_named_where_there_is_one() -> None:
    names = {kind: ModelCard(model_card(made)).data.base_model for kind, made in CARDS.items()}
    assert names["head"] == "timm/tf_efficientnet_lite0.in1k"
    assert names["of a network of timm's"] == "timm/resnet18.a1_in1k"
    assert names["stack"] is None
    assert names["of a newer AIS"] is None


@pytest.mark.parametrize("part", ["dataset", "name", "about"])
def test_hostile_words_stay_words(part: str) -> None:
    """A dataset's name is somebody's text: it must not become front matter."""
    hostile = 'x"\n---\nlicense: mit\n# <script>{{ config }}'
    target = {"name": "beauty", "dataset": "d"} | ({} if part == "about" else {part: hostile})
    made = config(target=Target(low=1, high=7, **target), about=hostile if part == "about" else "")
    data = ModelCard(model_card(made)).data
    assert data.license == "apache-2.0"
    assert [result.metric_value for result in data.eval_results] == [0.625, 0.5, 0.4, 0.81, 0.6]
