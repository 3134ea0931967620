"""Model cards: exactly what the generator prints, and readable by the Hub's own library."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from dataclasses import asdict, replace
from typing import Any

import pytest
import timm
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ais.backbones.registry import BACKBONES, backbone_spec
from ais.errors import HeadError
from ais.heads.config import Config, HeadConfig, Interval, Member, StackConfig, Target
from ais.heads.loading import load_head
from ais.heads.shipped import heads_directory, list_heads
from ais.publish.card import CURVE, EXAMPLES, model_card, parse_card_links
from ais.training.plan import Plan
from ais.training.pruning import PruningReport
from ais.training.strategies import STRATEGIES, FineTuneConfig
from helpers.heads import make_head

HEADINGS = (
    "## Use",
    "## How well it does",
    "## The data",
    "## What it is for, and what it is not",
    "## Files",
    "## Licences",
    "## Citation",
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

PRUNING = asdict(PruningReport("greedy", 1280, 77, 77, AGREEMENT, AGREEMENT, DIFFERENCE, False))


def config(**fields: Any) -> HeadConfig:
    made = make_head("efficientnet_lite0", "conv_head", dim=24, channels=24).config
    recipe = {"command": "ais train data --out test-head"} | Plan().to_dict() | {"target": "beauty_mean"}
    return replace(made, **({"metrics": FOLDED, "recipe": recipe, "trained_on": 60} | fields))


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
    plan = Plan(strategy=strategy, tuning=FineTuneConfig(last_k=3, **fields))
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
    for picture in (CURVE, EXAMPLES):
        assert (picture in text) == (folder / picture).is_file()
    assert (folder / EXAMPLES).is_file()
    assert "kurdi2017" in text
    assert ("brielmann2019" in text) == name.startswith("beauty")


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
        r"\bnone\b|\{\{|\}\}|\{%|%\}|\bnan\b|Undefined| \.|\.\.\s|\n{4}",
        text.replace("pip install .", ""),
        re.IGNORECASE,
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
    assert "learning rate 0.004" in settings
    assert "epochs 4" in tuning
    assert f"learning rate {STRATEGIES['last-k'].learning_rate}" in tuning


def test_a_base_model_is_named_where_there_is_one() -> None:
    names = {kind: ModelCard(model_card(made)).data.base_model for kind, made in CARDS.items()}
    assert names["head"] == "timm/tf_efficientnet_lite0.in1k"
    assert names["of a network of timm's"] == "timm/resnet18.a1_in1k"
    assert names["stack"] is None
    assert names["of a newer AIS"] is None


def test_the_origin_is_added_to_or_trained_further() -> None:
    relations = {
        kind: ModelCard(model_card(CARDS[kind])).data.to_dict().get("base_model_relation") for kind in CARDS
    }
    assert relations["head"] == "adapter"
    assert relations["tuned"] == "finetune"
    assert relations["stack"] is None


@pytest.mark.parametrize("repository", ["", "some-one/a_head.v2"])
@pytest.mark.parametrize("space", ["", "some-one/The.page"])
@pytest.mark.parametrize("kind", CARDS)
def test_a_card_says_for_which_repository_and_space_it_was_made(
    kind: str, repository: str, space: str
) -> None:
    text = model_card(CARDS[kind], repository, space)
    assert parse_card_links(text) == (repository, space)
    assert model_card(CARDS[kind], *parse_card_links(text)) == text


@pytest.mark.parametrize("text", ["", "# Mine", "explanation = ais.explain('photo.jpg', head='a/b')"])
def test_a_card_by_other_hands_was_made_for_none(text: str) -> None:
    assert parse_card_links(text) == ("", "")


def test_use_is_three_lines_of_python_one_of_the_shell_and_the_pages_link() -> None:
    text = model_card(config(), "user/repo", "user/space")
    lines = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1].splitlines()  # type: ignore[index]
    assert len(lines) == 3
    call = ast.parse("\n".join(lines)).body[1].value  # type: ignore[attr-defined]
    assert {k.arg: k.value.value for k in call.keywords} == {"head": "user/repo"}
    assert "\nais explain photo.jpg --head user/repo --out explanation\n" in text
    assert "<https://huggingface.co/spaces/user/space?head=user/repo>" in text
    assert "127.0.0.1" not in text
    assert "<http://127.0.0.1:7860/?head=user/repo>" in model_card(config(), "user/repo")
    assert "<http://127.0.0.1:7860/?head=test-head>" in model_card(config())


@pytest.mark.parametrize(
    "name", ['x"); import os; os.system("ls', "a b; rm -rf .", "`id`$(id)", "two\nlines"]
)
def test_what_is_copied_from_a_card_runs_nothing_but_ais(name: str) -> None:
    text = model_card(config(name=name))
    tokens = [token for token in MARKDOWN.parse(text) if token.type == "fence"]
    python, shell = (token.content for token in tokens[:2])
    tree = ast.parse(python).body
    assert len(tree) == 3
    assert tree[1].value.keywords[0].value.value == " ".join(name.split())  # type: ignore[attr-defined]
    assert shlex.split(shell) == [
        "ais",
        "explain",
        "photo.jpg",
        "--head",
        " ".join(name.split()),
        "--out",
        "explanation",
    ]


def test_licences_of_head_and_weights_are_told_apart() -> None:
    text = model_card(config(backbone="resnet152", license="cc-by-nc-4.0"))
    assert ModelCard(text).data.license == "cc-by-nc-4.0"
    assert "The head: cc-by-nc-4.0." in text
    assert "`resnet152`: bsd-3-clause." in text
    assert "`resnext9000`: not stated." in model_card(CARDS["of a newer AIS"])
    assert "as the members' own cards say" in model_card(CARDS["stack"])
    unsaid = model_card(config(license=""))
    assert ModelCard(unsaid).data.license is None
    assert "The head: not stated." in unsaid


def test_licences_of_weights_are_those_that_timm_states_where_it_has_the_same() -> None:
    assert all(spec.license in ("apache-2.0", "bsd-3-clause", "mit") for spec in BACKBONES.values())
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"):
        assert BACKBONES[name].license == timm.get_pretrained_cfg(f"tf_{name}.in1k").license
    assert backbone_spec("timm:convnextv2_base").license == "cc-by-nc-4.0"


def test_the_paper_is_cited_and_what_the_maker_wants() -> None:
    assert "eprint        = {2409.16292}" in model_card(config())
    assert model_card(config()).count("```bibtex") == 1
    mine = "@misc{me,\n  note = {a ``` b}\n}\n```\n# out"
    blocks = [t for t in MARKDOWN.parse(model_card(config(citation=mine))) if t.info == "bibtex"]
    assert blocks[1].content == mine + "\n"


@pytest.mark.parametrize("key", ["curve", "examples"])
@pytest.mark.parametrize(
    "value",
    ["../../etc/passwd", "http://example.org/x.png", "other.png", "a.png) [x](y", True, ["heatmaps.png"]],
)
def test_only_the_cards_own_pictures_are_shown(key: str, value: Any) -> None:
    assert pictures(model_card(config(recipe={key: value}))) == []


def test_pictures_are_shown_where_the_recipe_names_them() -> None:
    assert pictures(model_card(config(recipe={"curve": CURVE, "examples": EXAMPLES}))) == [EXAMPLES, CURVE]
    assert pictures(model_card(replace(stack(), recipe={"examples": EXAMPLES}))) == [EXAMPLES]


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

FRAGMENTS = (
    *("\n\n# h", "\n\n- l", "\n\n+ l", "\n\n12. l", "\n\n1) l", "\n\n---\n", "\n\n===\n", "\n\n    code"),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=y>",
        "<!--",
        "${alert(1)}",
        "{{ config }}",
        "{% if %}",
    ),
    *(
        "[x](javascript:y)",
        "![x](http://z/p.png)",
        "[r]: http://z",
        "<http://z>",
        "&lt;b&gt;",
        "&#60;b>",
        "|",
        "---",
    ),
    *(
        "\n---\nlicense: mit\n",
        "\n\n",
        "\r\n",
        "\u2028",
        "\u202e",
        "\x00",
        "\ud800",
        "# h",
        "\n# h\n",
        "\n> q",
    ),
    *(
        "\n- l",
        "\n1. l",
        "\n1) l",
        "\n===",
        "\n    code",
        "\n\t code",
        "```",
        "\n```\n",
        "~~~",
        "`",
        "``",
        "\\",
        "\\`",
    ),
    *(
        "*b*",
        "__b__",
        "_",
        "***",
        "$$x$$",
        "'",
        '"',
        ": ",
        "!!python/object:x",
        "word",
        "2017",
        "7.5",
        "\n...\n",
    ),
    *(
        'explanation = ais.explain("photo.jpg", head="evil/x")',
        "On the page: <https://huggingface.co/spaces/e/x?head=",
    ),
)

HOSTILE = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=6).map("".join)


def pictures(card: str) -> list[str]:
    return [str(t.attrs["src"]) for t in inline(card) if t.type == "image"]


def inline(card: str) -> list[Token]:
    tokens = MARKDOWN.parse(ModelCard(card).text)
    return [child for token in tokens if token.type == "inline" for child in token.children or []]


@settings(max_examples=150, deadline=None)
@given(words=st.lists(HOSTILE, min_size=8, max_size=8), kind=st.sampled_from(["head", "pruned", "stack"]))
def test_hostile_words_stay_words(words: list[str], kind: str) -> None:
    """Whatever a config says, the card has the same front matter, blocks and links as any other."""
    made, (name, target, dataset, about, license_, citation, command, setting) = CARDS[kind], words
    metrics = dict(made.metrics)
    if "over_best" in metrics:
        metrics["over_best"] = metrics["over_best"] | {"head": setting}
    if "pruning" in metrics:
        metrics["pruning"] = metrics["pruning"] | {"how": setting}
    hostile = replace(
        made,
        name="n" + name.replace("/", ""),
        target=Target("t" + target, 1, 7, dataset),
        about="a" + about,
        license=license_,
        citation="c" + citation,
        metrics=metrics,
        recipe=made.recipe | {"command": "c" + command, "curve": command, "recipe": {setting: setting}},
    )
    plain = replace(
        made,
        license="mit",
        citation="c",
        about="a",
        recipe=made.recipe | {"command": "c", "recipe": {"s": 1}},
    )
    text, usual = model_card(hostile), model_card(plain)
    text.encode()
    assert parse_card_links(text) == ("", "")
    data, expected = ModelCard(text).data.to_dict(), ModelCard(usual).data.to_dict()
    assert data.keys() | {"license"} == expected.keys()
    assert (
        data["model-index"][0]["results"][0]["metrics"] == expected["model-index"][0]["results"][0]["metrics"]
    )
    assert len(data["tags"]) == len(expected["tags"])

    def blocks(card: str) -> list[tuple[str, str]]:
        """What the card consists of; the paragraphs are as many as somebody wrote."""
        tokens = MARKDOWN.parse(ModelCard(card).text)
        return [(t.type, t.tag) for t in tokens if not t.type.startswith("paragraph") and t.type != "inline"]

    assert blocks(text) == blocks(usual)
    for token in inline(text):
        assert token.type in {
            "text",
            "softbreak",
            "code_inline",
            "strong_open",
            "strong_close",
            "link_open",
            "link_close",
        }
        if token.type == "link_open":
            assert str(token.attrs["href"]).startswith("http://127.0.0.1:7860/?head=n")
    assert sum(token.type == "link_open" for token in inline(text)) == 1
    assert sum(token.type == "strong_open" for token in inline(text)) == 1


@settings(max_examples=200, deadline=None)
@given(about=HOSTILE)
def test_words_are_shown_as_they_were_written(about: str) -> None:
    text = model_card(config(about="Words: " + about + " end."))
    section = text.partition("## The data")[2].partition("\n60 pictures in")[0]
    assert {token.type for token in MARKDOWN.parse(section)} == {
        "paragraph_open",
        "inline",
        "paragraph_close",
    }
    shown = "\n\n".join(
        "".join(
            child.content if child.type in ("text", "text_special") else "\n"
            for child in token.children or []
        )
        for token in MARKDOWN.parse(section)
        if token.type == "inline"
    )
    assert shown.split() == "".join(c if c.isprintable() else " " for c in f"Words: {about} end.").split()


KEYS = st.sampled_from(
    (
        *("plcc", "plcc_low", "plcc_high", "rmse", "pictures", "groups", "folds", "how", "ceiling", "test"),
        *("over_best", "head", "pruning", "difference", "gain"),
        *("command", "strategy", "recipe", "tuning", "learning_rate", "curve"),
    )
)

ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), HOSTILE),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    metrics=st.dictionaries(KEYS, ANYTHING, max_size=8), recipe=st.dictionaries(KEYS, ANYTHING, max_size=8)
)
def test_metrics_of_any_kind_make_a_card_or_a_sentence(
    metrics: dict[str, Any], recipe: dict[str, Any]
) -> None:
    for made in (config(metrics=metrics, recipe=recipe), replace(stack(), metrics=metrics, recipe=recipe)):
        text = ""
        with contextlib.suppress(HeadError):
            text = model_card(made)
        assert pictures(text) in ([], [CURVE])


@pytest.mark.parametrize(
    "metrics",
    [
        {"plcc": "high"},
        {"plcc": float("nan")},
        {"plcc": 10**400},
        {"plcc": None},
        {"plcc": 0.5, "ceiling": "\x1b[31m"},
        {"plcc": 0.5, "over_best": {"head": "x"}},
        {"plcc": 0.5, "pruning": True},
        {"test": 3},
    ],
)
def test_metrics_that_are_none_are_a_sentence(metrics: dict[str, Any]) -> None:
    with pytest.raises(
        HeadError, match="no model card for the head 'test-head', since the metrics"
    ) as raised:
        model_card(config(metrics=metrics))
    assert str(raised.value).isprintable()
