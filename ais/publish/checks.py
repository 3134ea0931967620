"""Whether a head's folder is fit to be published: whole, in step with itself, and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from ais.errors import HeadError, ImageError
from ais.heads.base import Head
from ais.heads.config import BACKBONE, CARD, CONFIG, WEIGHTS, Config
from ais.heads.loading import load_head
from ais.images.reading import read_image
from ais.publish.card import CARD_IMAGES, model_card, parse_card_links

_SECRETS = {
    "a token of the Hub": r"\bhf_[A-Za-z0-9]{16,}",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "a key of Amazon's": r"\bAKIA[0-9A-Z]{16}\b",
    "a key for an API": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
}

_IGNORED = (".git", ".gitattributes", ".DS_Store")  # of other programs; they are not sent

_ABSOLUTE = re.compile(r"(?<![\w:/.~>\])?])(?:~?/[\w.@-]+){2,}|(?<!\w)~/\w|\b[A-Za-z]:[\\/](?!/)|\\\\\w+\\\w")


def check_folder(folder: Path) -> Head:
    """The head in a folder, if the folder is fit to be its repository.

    It has to load; its card has to say what its config says; it may hold nothing but a head's files, no secret, and
    no path of the machine it was made on.

    Raises:
        HeadError: every fault that was found.
    """
    if not (folder / CONFIG).is_file():
        raise HeadError(f"There is no head in {folder}: it has no {CONFIG}.")
    head = load_head(Path(folder))  # never one that comes with AIS
    faults = [*_unexpected_files(folder, head.config), *_card_faults(folder, head.config), *_leaks(folder)]
    if faults:
        raise HeadError(f"The head in {folder} is not fit to be published:\n  " + "\n  ".join(faults))
    return head


def file_names(config: Config | None) -> list[str]:
    """The files that a head's folder may hold; without a config all that any head's may."""
    names = [CONFIG, WEIGHTS, CARD]
    if config is None or config.has_own_backbone:
        names.append(BACKBONE)
    names += [name for key, name in CARD_IMAGES.items() if config is None or config.recipe.get(key) == name]
    return names


def _unexpected_files(folder: Path, config: Config) -> Iterator[str]:
    wanted = file_names(config)
    for file in sorted(folder.iterdir()):
        if file.name in _IGNORED:
            continue
        if file.name not in wanted or not file.is_file():
            yield f"{file.name} does not belong to this head. Remove it."
        elif file.name in CARD_IMAGES.values():
            try:
                read_image(file)
            except ImageError as error:
                yield f"{file.name} is not a picture: {error}"
    for name in wanted:
        if not (folder / name).is_file():
            yield f"{name} is missing. `ais card {folder}` writes the card again."


def _card_faults(folder: Path, config: Config) -> Iterator[str]:
    file = folder / CARD
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    if text != model_card(config, *parse_card_links(text)):
        yield f"{CARD} is not the card that {CONFIG} makes. `ais card {folder}` writes it again; --about adds words."


def _leaks(folder: Path) -> Iterator[str]:
    """Secrets, and paths of this machine, in all that can be read as text. What was found is not repeated."""
    token, told = get_token(), set[str]()
    for file in sorted(folder.iterdir(), key=lambda file: (file.name != CONFIG, file.name)):
        if not file.is_file() or file.name in _IGNORED:
            continue
        text = _text_of(file)
        for what, pattern in _SECRETS.items():
            if re.search(pattern, text):
                yield f"{file.name} holds {what}. {_remedy(file)}"
                break
        else:
            if token and token in text:
                yield f"{file.name} holds the token in use. {_remedy(file)}"
        paths = sorted(set(_ABSOLUTE.findall(text)) - told) if file.suffix != ".png" else []
        if paths:
            told.update(paths)  # what the config says is in the card, too
            yield f"{file.name} names places on a machine, {', '.join(paths)}. {_remedy(file)}"


def _remedy(file: Path) -> str:
    if file.name in (CONFIG, CARD):
        return (
            f"If they are words of yours, `ais card {file.parent} --about …` writes others; else remove it."
        )
    return "Remove it."


def _text_of(file: Path) -> str:
    data = file.read_bytes()
    if file.suffix == ".safetensors":  # the header alone: numbers may look like anything
        data = data[8 : 8 + int.from_bytes(data[:8], "little")]
    if file.name == CONFIG:  # as the strings in it read, without JSON's own backslashes
        return "\n".join(_strings(json.loads(data)))
    return data.decode("utf-8", errors="replace")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *_strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
