"""Every command and every piece of Python in README.md and docs/ runs, and prints what is quoted.

A document's commands are run in their order, in a folder that holds what they name: small pictures, tables and matrices
that are made up here (`world`). What differs from the text is in the tables below and nowhere else:

- `WORDS`: names that stand for something of the reader's;
- `SMALLER` and `FEWER_RATES`: what makes a long computation short and changes nothing else;
- `ELSEWHERE`: what is run by other tests, or by nobody here, and why.

What is quoted of a command's output (in a block with ``$ ``) is compared with numbers masked, since it comes from
pictures that are not ours to ship; what is said of the shipped head and `photo.jpg` (scikit-image's cup of coffee) is
compared digit by digit.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from ais import cli
from ais.training.finetuning import range_test
from helpers.local_hub import LocalHub
from helpers.sets import aigciqa2023

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

WORDS = {
    "USER/REPO": "user/repo",
    "A": "my-head",
    "B": "other-head",
    "C": "both",
    "SOURCE": "OASIS",
    "means_per_image.csv": "OASIS/means_per_image.csv",
}
WORDS_OF = {
    "data oasis": {"DATA": "converted"}
}  # where a word is another thing than in the commands around it
SMALLER = {
    "train": ["--variants", "2", "--folds", "3"],
    "align": ["--splits", "3"],
}
FEWER_RATES = {"steps": 8, "trials": 2}  # that `ais find-rate` tries
ELSEWHERE = {  # patterns of whole commands: why they are not run here
    r"pip install [^&]*": "the environment of the tests is made so",
    r"pip install -r requirements.txt && python app.py": "test_page.py runs app.py",
    r'pip install -e "\.\[test\]" && pytest': "this is it",
    r"(AIS_HEADS=\S+ )?python app.py": "test_page.py, and test_page_hub.py with AIS_HEADS, run app.py",
}
OTHER_BLOCKS = (  # the first words of blocks that are no commands
    "file_name,",
    "app.py, ais/demo/",
)
COMMAND = re.compile(r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:ais|pip|python|hf|pytest|curl|git)(?: .*|$))")


@dataclass(frozen=True)
class Step:
    """A command or a piece of Python, with what is quoted of its output.

    Attributes:
        line: of the document, from 1.
        kind: ``"command"`` or ``"python"``.
    """

    document: Path
    line: int
    kind: str
    text: str
    quoted: str = ""

    @property
    def where(self) -> str:
        return f"{self.document.name}:{self.line}: {self.text}"


def blocks(document: Path) -> Iterator[tuple[int, str, list[str]]]:
    """The fenced blocks: line, language, content."""
    inside, language, start = False, "", 0
    content: list[str] = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            if inside:
                yield start, language, content
            inside, language, start, content = not inside, line.strip("` "), number + 1, []
        elif inside:
            content.append(line)
    assert not inside, f"{document.name}: a block without an end"


def steps(document: Path) -> list[Step]:
    found: list[Step] = []
    for start, language, content in blocks(document):
        if language == "python":
            found.append(Step(document, start, "python", "\n".join(content)))
        elif language in ("json", "csv"):
            continue
        elif any(line.startswith("$ ") for line in content):
            for number, line in enumerate(content):
                if line.startswith("$ "):
                    quoted = []
                    for after in content[number + 1 :]:
                        if after.startswith("$ "):
                            break
                        quoted.append(after)
                    found.append(Step(document, start + number, "command", line[2:], "\n".join(quoted)))
        else:
            for number, line in enumerate(content):
                if COMMAND.fullmatch(line):
                    # What stands behind two spaces is said of it.
                    found.append(
                        Step(document, start + number, "command", re.split(r"\s{2,}", line.strip())[0])
                    )
                elif not content[0].startswith(OTHER_BLOCKS):
                    pytest.fail(f"{document.name}:{start + number}: neither a command nor known: {line}")
    return found


def inline(document: Path) -> list[str]:
    """What is written as code within the text and begins with the command's name."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`(ais [^`]+)`", text)]


def elsewhere(text: str) -> bool:
    return any(re.fullmatch(pattern, text) for pattern in ELSEWHERE)


def command_names(words: list[str]) -> tuple[str, Any]:
    """The command that the words call, ``"data oasis"``, and Click's object for it."""
    found, names = typer.main.get_command(cli.app), []
    for word in words:
        inner = getattr(found, "commands", {})
        if word not in inner:
            break
        names.append(word)
        found = inner[word]
    return " ".join(names), found


def filled(line: str) -> list[str]:
    """The words of a command after `ais`, as they are run here."""
    words = shlex.split(line)[1:]
    name, _ = command_names(words)
    table = WORDS | WORDS_OF.get(name, {})
    fewer = ["--pictures", "2"] if "--heatmaps" in words else []
    return [table.get(word, word) for word in words] + SMALLER.get(name, []) + fewer


def run(arguments: list[str]) -> str:
    """The command in this process; its stdout."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["ais", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code, err.getvalue()
    return out.getvalue()


def masked(text: str) -> str:
    """The form of an output: numbers and the categories of somebody's pictures masked, one space between words."""
    text = re.sub(r"[+\-−]?\d[\d,]*(\.\d+)?(e[+-]\d+)?", "#", text)
    text = re.sub(r"\b(object|scenery|animal|person)\b", "CATEGORY", text)
    return " ".join(text.split())


def check_numbers(step: Step, names: dict[str, Any]) -> None:
    """Lines such as ``explanation.score, explanation.percentile  # 4.70, 54.5`` tell what comes out."""
    for line in step.text.splitlines():
        code, _, said = line.partition("  # ")
        if said and re.fullmatch(r"[\d.,()\s+−-]+", said):
            numbers = re.findall(r"-?\d+(?:\.\d+)?", said.replace("−", "-"))
            values = np.hstack([np.ravel(part) for part in _flat(eval(code, names))])
            found = [
                f"{value:.{len(n.partition('.')[2])}f}" for value, n in zip(values, numbers, strict=True)
            ]
            assert found == numbers, step.where


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def picture(folder: Path, name: str, level: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(level, 25, (48, 64, 3))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name, "PNG")


def make_oasis(folder: Path, count: int = 48) -> None:
    """OASIS in its authors' layout: brighter is more beautiful, by and large; themes of two, four categories."""
    rng = np.random.default_rng(0)
    ratings = [",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N"]
    beauty = ["item,beauty_mean,Theme,beauty_SD,N"]
    for i in range(count):
        level, theme = rng.uniform(40, 215), f"{'abcdefghijklmnopqrstuvwxyz'[i // 2]}thing {i % 2 + 1}"
        mean = float(np.clip(1.5 + level / 43 + rng.normal(0, 1.0), 1, 7))
        picture(folder / "Images", f"{theme.capitalize()}.jpg", level, i)
        category = ("Object", "Scenery", "Animal", "Person")[i // 2 % 4]
        ratings.append(f"I{i + 1},{theme.capitalize()},{category},Pixabay,{mean:.4f},1.2,102,3.1,1.6,101")
        beauty.append(f"{i + 1},{mean:.4f},{theme.title().replace(' ', '')},1.4,140")
    (folder / "OASIS.csv").write_text("\n".join(ratings))
    (folder / "means_per_image.csv").write_text("\n".join(beauty))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents name."""
    from skimage import data

    root = tmp_path_factory.mktemp("world")
    Image.fromarray(data.coffee()).save(root / "photo.jpg", "PNG")  # what a file is, its content says
    for i, name in enumerate(("photos/one.png", "photos/two.png", "a.jpg", "b.jpg")):
        picture(root, name, 60 + 40 * i, 100 + i)
    make_oasis(root / "OASIS")
    aigciqa2023(root / "AIGCIQA2023")
    for i in range(14):
        picture(root / "STIMULI", f"{i:02}.png", 20 + 15 * i, 200 + i)
    rng = np.random.default_rng(3)
    people = np.abs(np.subtract.outer(np.arange(14.0), np.arange(14.0))) + rng.uniform(0, 4, (3, 14, 14))
    people = people + people.swapaxes(1, 2)
    for matrix in people:
        np.fill_diagonal(matrix, 0)
    np.save(root / "people.npy", people)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIS_CACHE", str(root / "cache"))
        patch.chdir(root)
        run(["data", "oasis", "OASIS", "--beauty", "OASIS/means_per_image.csv", "--out", "DATA"])
        shutil.copytree("DATA", "MINE")
        table = (root / "MINE/metadata.csv").read_text()
        (root / "MINE/ratings.csv").write_text(table.replace("file_name", "picture"))
        for name, backbone in (("my-head", "efficientnet_lite0"), ("other-head", "efficientnet_lite1")):
            options = ["--target", "beauty_mean", "--backbone", backbone, "--out", name]
            run(["train", "DATA", *options, *SMALLER["train"]])
    return root


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_is_one(document: Path) -> None:
    """And has the options that it is given, where it is only spoken of, too."""
    for text in [step.text for step in steps(document) if step.kind == "command"] + inline(document):
        if elsewhere(text):
            continue
        words = shlex.split(text.replace("…", " "))
        assert words[0] == "ais", f"{document.name}: {text} is in no table"
        name, command = command_names(words[1:])
        assert name or words[1].startswith("--"), f"{document.name}: {text}"
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{document.name}: {text}"


def commands_of_the_app() -> dict[str, Any]:
    """Click's objects by their names; of `ais data` its commands."""
    found = {}
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {f"{name} {part}": inner[part] for part in inner} or {name: command}
    return found


def test_the_readme_lists_every_command() -> None:
    lines = [step.text for step in steps(ROOT / "README.md") if step.kind == "command"]
    listed = {command_names(shlex.split(line)[1:])[0] for line in lines}
    missing = {name for name in commands_of_the_app() if not name.startswith("data ")} - listed
    assert not missing
    assert any(name.startswith("data ") for name in listed)


def test_the_readme_says_which_commands_run_no_network() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(r"except those that run no network: ([^.]+)\.", text)
    without = {
        name.partition(" ")[0]
        for name, command in commands_of_the_app().items()
        if "--device" not in {option for parameter in command.params for option in parameter.opts}
    }
    assert set(re.findall(r"`([\w-]+)`", said)) == without


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_runs_and_prints_what_is_quoted(
    document: Path, world: Path, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "world"
    shutil.copytree(world, place, copy_function=os.link)
    monkeypatch.chdir(place)
    monkeypatch.setenv("AIS_CACHE", str(place / "cache"))
    monkeypatch.setattr("ais.workflows.find_rate.range_test", partial(range_test, **FEWER_RATES))
    hub.login()
    for step in steps(document):
        if elsewhere(step.text) or "gradio_client" in step.text:
            continue
        print(step.where)  # noqa: T201  where it was, if it fails
        if step.kind == "python":
            names: dict[str, Any] = {}
            exec(compile("import ais\n" + step.text, step.where, "exec"), names)
            check_numbers(step, names)
            continue
        printed = run(filled(step.text))
        if step.quoted:
            assert masked(printed).startswith(masked(step.quoted)), step.where


@pytest.mark.slow
def test_the_client_in_the_readme(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ais.heads.shipped import heads_directory
    from helpers.browsing import running_app

    (step,) = [step for step in steps(ROOT / "README.md") if "gradio_client" in step.text]
    monkeypatch.chdir(world)
    with running_app(heads_directory(), tmp_path) as address:
        names: dict[str, Any] = {}
        exec(step.text.replace("http://127.0.0.1:7860", address), names)
    assert json.dumps(names["result"])
    assert Path(names["overlay"]).is_file()
