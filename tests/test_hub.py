"""Model cards: exactly what the generator prints, and readable by the Hub's own library."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from ais.heads import Target, heads_directory, list_heads, load_head
from ais.hub import model_card
from conftest import make_head


@pytest.mark.parametrize("name", list_heads())
def test_shipped_cards_are_what_the_generator_prints(name: str) -> None:
    text = (heads_directory() / name / "README.md").read_text(encoding="utf-8")
    assert text == model_card(load_head(name).config)
    data = ModelCard(text).data
    assert data.license == "apache-2.0"
    metrics = {result.metric_name.split()[0]: result.metric_value for result in data.eval_results}
    assert metrics["PLCC"] == pytest.approx(load_head(name).config.metrics["plcc"], abs=1e-4)
    for heading in ("## Use", "## How well it does", "## The data", "## What it is for, and what it is not"):
        assert heading in text
    assert "ais train" in text


def test_hostile_words_stay_words() -> None:
    """A dataset's name is somebody's text: it must not become front matter."""
    head = make_head("efficientnet_lite0", "conv_head")
    hostile = 'x"\n---\nlicense: mit\n# <script>'
    config = replace(head.config, target=Target("beauty", 1, 7, hostile), metrics={"plcc": 0.5})
    assert ModelCard(model_card(config)).data.license == "apache-2.0"
