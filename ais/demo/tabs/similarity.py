"""The Similarity tab: a set of images compared with people, or with a rule.

All of it is computed in this process: on a Space that is lent a GPU for a call alone (ZeroGPU), on the CPU.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from ais.attribution.colors import COLORS
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached
from ais.backbones.registry import BACKBONES
from ais.data.rdms import HumanRDMs, read_human_rdms
from ais.demo import gpu, shapes, storage, values
from ais.demo.components import component, uploaded
from ais.demo.queues import COMPUTE, PRIVATE
from ais.demo.session import Session, fields, problem, text_field
from ais.demo.turns import Turn
from ais.errors import AISError, DataError, ImageError, listing
from ais.images.preprocessing import ViewName
from ais.images.reading import read_image
from ais.rsa import rdm as rsa_rdm
from ais.rsa.importance import pair_importance
from ais.workflows import align
from ais.workflows.align import RSAResult, StimulusHeatmap, map_embedding

MOST = 60  # images
FEWEST = 3
LARGEST_MATRIX, LARGEST_UNFOLDED = 2 << 20, 8 << 20  # bytes of a file, and of what is packed in it
NUMBERS = MOST * MOST * 100  # in a matrix file: those of a hundred people
VIEW: ViewName = "resize"
DEFAULT = "efficientnet_lite0"
THUMBNAIL = 144  # pixels of the longer side
GONE = "These images are no longer on the server. Upload them again."


@dataclass(frozen=True, eq=False)
class Stimuli:
    """N images and how dissimilar they were said to be.

    Attributes:
        files, names: N paths, and what to call them.
        judgments: (P, N, N).
        by_rule: nobody was asked, a rule made the judgments.
    """

    files: list[Path]
    names: list[str]
    judgments: HumanRDMs
    by_rule: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StimuliRSA(RSAResult):
    """Stimuli as a backbone sees them, compared with what was said of them.

    Attributes:
        thumbnails: N small images.
        embedding: (N, C), the pooled maps.
    """

    stimuli: Stimuli
    backbone: str
    thumbnails: list[Image.Image]
    embedding: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.embedding)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The network's geometry and people's on a square from 0 to 1: (N, 2) each.

        People's is turned, or mirrored, to where it comes nearest to the network's: neither has a right way round.
        """
        network, people = (_unit(rsa_rdm.mds(rdm)) for rdm in (self.model_rdm, self.human_rdm))
        turn, _ = orthogonal_procrustes(people, network)
        return spread(network), spread(_unit(people @ turn))


@dataclass(eq=False)
class State:
    """What the tab keeps for one visitor.

    Attributes:
        own: the images that this visitor uploaded. shown: the comparison on the page.
    """

    own: Stimuli | None = None
    shown: StimuliRSA | None = None


# What is computed -------------------------------------------------------------------------------------------


def backbones() -> list[str]:
    """Those that can be used at once: their weights are on this machine, and every map has its coordinate."""
    here = [name for name, spec in BACKBONES.items() if spec.weights_file.is_file()]
    return [name for name in here if BACKBONES[name].target_layers[BACKBONES[name].layer] is not None]


def drawn() -> Stimuli:
    """Those that come with the page."""
    return Stimuli(*shapes.stimuli(), by_rule=True)


def uploaded_stimuli(images: Sequence[tuple[Path, str]], matrix: tuple[Path, str] | None) -> Stimuli:
    """Images and a matrix with their names; the matrix's rows are in the order of the images' names, or named.

    Raises:
        DataError: too few or too many images, no matrix, or one that does not fit.
    """
    if not FEWEST <= len(images) <= MOST:
        raise DataError(f"These are {len(images)} pictures. Choose from {FEWEST} to {MOST}.")
    if matrix is None:
        raise DataError(
            "There is no matrix. Choose a .npy, .mat, .csv, .tsv, .txt or .xlsx file with one row for each picture."
        )
    images = sorted(images, key=lambda image: image[1])
    path, name = matrix
    if path.stat().st_size > LARGEST_MATRIX:
        raise DataError(
            f"{name} is larger than {LARGEST_MATRIX >> 20} MB, too large for {MOST} pictures. Check it."
        )
    try:
        with gpu.turns.admitted(slow=True) as turn:
            judgments = turn.run(partial(_judgments, path, [name for _, name in images]))
    except DataError as error:  # nobody needs to know where the server keeps it
        places = f"{re.escape(str(path))}|{re.escape(path.name)}"
        raise DataError(re.sub(places, lambda _: name, str(error))) from error
    return Stimuli([file for file, _ in images], [name for _, name in images], judgments)


def _judgments(path: Path, names: list[str]) -> HumanRDMs:
    """Of a visitor's file, which may be made to unfold to more than there is memory."""
    unfolded = 0
    with (
        contextlib.suppress(Exception),
        zipfile.ZipFile(path) as archive,
    ):  # what is none, or damaged, is told below
        unfolded = sum(part.file_size for part in archive.infolist())
    if unfolded > LARGEST_UNFOLDED:
        raise DataError(
            f"{path.name} unfolds to more than {LARGEST_UNFOLDED >> 20} MB, too large for {MOST} pictures. "
            "Check it, or save it as CSV."
        )
    return read_human_rdms(path, len(names), names, most=NUMBERS)


def compare(stimuli: Stimuli, backbone: str) -> Iterator[str | StimuliRSA]:
    """Sentences of what is being done, and at last the result.

    Raises:
        DataError: all images that cannot be read.
        AISError: there is no such backbone here.
    """
    if stimuli.by_rule and backbone in _drawn:
        yield _drawn[backbone]
        return
    with gpu.turns.admitted(slow=True) as turn:
        yield from _compare(stimuli, backbone, turn)


def _compare(stimuli: Stimuli, backbone: str, turn: Turn) -> Iterator[str | StimuliRSA]:
    """Each step in a turn of its own: an image that is read takes memory, too."""
    yield "Preparing the network"
    network = turn.run(lambda: _network(backbone))
    thumbnails, rows, problems = [], [], []
    for number, (file, name) in enumerate(zip(stimuli.files, stimuli.names, strict=True), start=1):
        yield f"Looking at picture {number} of {len(stimuli.files)}"
        try:
            row, thumbnail = turn.run(partial(_embedded, turn, file, network))
        except ImageError as error:
            problems.append(str(error).replace(file.name, name))
            continue
        if not problems:
            rows.append(row)
            thumbnails.append(thumbnail)
    if problems:
        raise DataError(listing("Some pictures cannot be read", problems))
    yield "Ablating feature maps"
    turn.progress()

    def ablate() -> tuple[np.ndarray, RSAResult]:
        embedding = map_embedding(network, torch.cat(rows))
        return embedding, align.compare_with_people(embedding, stimuli.judgments)

    embedding, comparison = turn.run(ablate)
    compared = StimuliRSA(
        stimuli=stimuli, backbone=backbone, thumbnails=thumbnails, embedding=embedding, **vars(comparison)
    )
    if stimuli.by_rule:
        _drawn[backbone] = compared
    yield compared


def _embedded(turn: Turn, file: Path, network: FrozenBackbone) -> tuple[Tensor, Image.Image]:
    """An image's embedding (1, D), and a small copy."""
    turn.progress()
    image = read_image(file)
    row = network(image).embedding
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return row, image


def heatmap_of(compared: StimuliRSA, number: int, importance: np.ndarray) -> StimulusHeatmap:
    """One of the stimuli with its heatmap by the importance (C,) of the maps.

    Raises:
        ImageError: its file is no longer there.
    """
    file = compared.stimuli.files[number]
    with gpu.turns.admitted() as turn:
        return turn.run(lambda: align.stimulus_heatmap(file, _network(compared.backbone), importance))


def share_less_alike(rdm: np.ndarray, i: int, j: int) -> float:
    """The share of the other pairs that are less alike than this one, ties as half."""
    others = rdm[np.triu_indices(len(rdm), 1)]
    more, same = (others > rdm[i, j]).sum(), (others == rdm[i, j]).sum() - 1
    return float((more + same / 2) / (len(others) - 1))


def spread(places: np.ndarray) -> np.ndarray:
    """Places (N, 2) in [-1, 1] on a square from 0 to 1, moved apart as far as their images would hide each other."""
    places = (places + 1) / 2
    count = len(places)
    gap = min(0.16, 0.6 / count**0.5)
    # Where two coincide, each goes its own way, always the same.
    turn = np.arange(count) * 2.4
    places = places + 1e-4 * np.stack([np.cos(turn), np.sin(turn)], 1)
    for _ in range(200):
        apart = places[:, None] - places
        distance = np.linalg.norm(apart, axis=2) + np.eye(count)
        push = np.maximum(gap - distance, 0) / 2
        if not push.any():
            break
        places = np.clip(places + (apart * (push / distance)[..., None]).sum(1), 0, 1)
    return np.asarray(places)


def _unit(places: np.ndarray) -> np.ndarray:
    """The same geometry, in [-1, 1]."""
    return places / (np.abs(places).max() or 1)


_drawn: dict[str, StimuliRSA] = {}  # those drawn are everybody's, and never change


def _network(backbone: str) -> FrozenBackbone:
    if backbone not in backbones():
        raise AISError(f"There is no such network here. Choose one of: {', '.join(backbones())}.")
    device = "cpu" if gpu.ZERO_GPU else "auto"
    return backbone_cached(backbone, BACKBONES[backbone].layer, view=VIEW, device=device)


# What happens -----------------------------------------------------------------------------------------------


def on_gathered(asked: Any, session: Session | None) -> Iterator[tuple[Any, ...]]:
    """Compare the images asked for: values for the map, the heatmaps and the session, as they come.

    Each value for the map has the request's number, by which the page knows what came late.
    """
    session = session or Session()
    asked = asked if isinstance(asked, dict) else {}
    number = {"number": asked["number"]} if type(asked.get("number")) is int else {}
    try:
        backbone = text_field(asked, "backbone", DEFAULT)
        stimuli = _stimuli(asked, session.state(State))
        with storage.using(*stimuli.files):
            for step in compare(stimuli, backbone):
                if isinstance(step, str):
                    yield {"busy": step, **number}, gr.skip(), gr.skip()
                else:
                    session.state(State).shown = step
                    yield map_value(step) | number, None, session
    except Exception as error:
        yield problem(error) | number, gr.skip(), session


def on_selected(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The heatmap of one image, or those of two."""
    try:
        compared = session.state(State).shown if session else None
        if session is None or compared is None:
            raise AISError(GONE)
        asked = fields(event)
        chosen: list[Any] = [asked.get("one"), asked.get("other")]
        if chosen[1] is None:
            del chosen[1]
        if not all(type(n) is int and 0 <= n < len(compared) for n in chosen) or len({*chosen}) < len(chosen):
            raise AISError("There is no such picture among these.")
        if not all(compared.stimuli.files[n].is_file() for n in chosen):
            raise AISError(GONE)
        if len(chosen) == 1:
            return one_value(compared, chosen[0], session)
        return pair_value(compared, chosen[0], chosen[1], session)
    except Exception as error:
        return problem(error)


def _stimuli(asked: Mapping[str, Any], state: State) -> Stimuli:
    """Those drawn, those that come with the request, or those that came before."""
    if asked.get("stimuli") != "own":
        return drawn()
    if asked.get("images"):
        sent = asked["images"]
        files = [uploaded(one) for one in (sent if isinstance(sent, list) else [])]
        if any(file is None for file, _ in files):
            raise AISError(GONE)
        path, name = uploaded(asked.get("matrix"))
        state.own = uploaded_stimuli(
            [(file, title) for file, title in files if file is not None],
            None if path is None else (path, name),
        )
    if state.own is None or not all(file.is_file() for file in state.own.files):
        raise AISError(GONE)
    return state.own


# What is shown ----------------------------------------------------------------------------------------------


def map_value(compared: StimuliRSA) -> dict[str, Any]:
    """For `stimuli.js`: the numbers, and the images with their places in both geometries."""
    network, people = compared.places()
    named = zip(compared.stimuli.names, compared.thumbnails, strict=True)
    return {
        "numbers": numbers(compared),
        "rule": compared.stimuli.by_rule,
        "images": [{"name": name, "thumbnail": values.data_address(image)} for name, image in named],
        "places": {"network": network.round(4).tolist(), "people": people.round(4).tolist()},
        "run": secrets.token_hex(4),
    }


def numbers(compared: StimuliRSA) -> list[dict[str, str]]:
    """The line of numbers: what each is called, its value, and what it means."""
    helps, maps = int((compared.importance > 0).sum()), len(compared.importance)
    people = len(compared.stimuli.judgments)
    them = "the rule" if compared.stimuli.by_rule else "people"
    line = [
        {
            "name": "RDM correlation",
            "value": f"{compared.rdm_correlation:.2f}".replace("-", "−"),
            "about": f"Spearman's correlation of the network's dissimilarities of all pairs with those by {them}.",
        }
    ]
    if compared.ceiling:
        low, high = compared.ceiling
        line.append(
            {
                "name": "Ceiling",
                "value": f"{low:.2f} to {high:.2f}".replace("-", "−"),
                "about": f"What the best of all models would reach, since the {people} people do not agree.",
            }
        )
    line.append(
        {
            "name": "Maps that help",
            "value": f"{helps:,} of {maps:,}",
            "about": f"Feature maps without which the network would be farther from {them}.",
        }
    )
    return line


def one_value(compared: StimuliRSA, number: int, session: Session) -> dict[str, Any]:
    """For `heatmaps.js`: what brings an image's comparisons with the others nearer to people's, and what is salient."""
    heatmap = heatmap_of(compared, number, compared.image_importance[number])
    them = "the rule" if compared.stimuli.by_rule else "people"
    agreement = f"{heatmap.saliency_correlation:.2f}".replace("-", "−")
    side = _side(heatmap, compared.stimuli.names[number], session)
    return {
        "title": compared.stimuli.names[number],
        "lead": f"Red: what brings this picture’s comparisons with the others nearer to {them}’s. "
        "Blue: what takes them away.",
        "sides": [side | {"label": "Alignment importance"}],
        "saliency": heatmap.saliency.ravel().round(5).tolist(),
        "meaning": f"On the right, the saliency baseline (spectral residual). Correlation of the two: {agreement}.",
        "ends": [f"away from {them}", f"nearer to {them}"],
        **_common(),
    }


def pair_value(compared: StimuliRSA, one: int, other: int, session: Session) -> dict[str, Any]:
    """For `heatmaps.js`: what makes two images alike to the network."""
    shares = pair_importance(compared.embedding, one, other)
    sides = [
        _side(heatmap_of(compared, n, shares), compared.stimuli.names[n], session)
        | {"label": compared.stimuli.names[n]}
        for n in (one, other)
    ]
    them = "by the rule" if compared.stimuli.by_rule else "to people"
    network, people = (share_less_alike(rdm, one, other) for rdm in (compared.model_rdm, compared.human_rdm))
    correlation = float(shares.sum())
    return {
        "title": "What makes these alike",
        "lead": "Red: what makes the two alike to the network. Blue: what makes them differ.",
        "sides": sides,
        "correlation": correlation,
        "meaning": f"Correlation {correlation:.2f}".replace("-", "−")
        + f", the sum of all maps’ shares. More alike than {network:.0%} of the pairs to the network, and than "
        f"{people:.0%} {them}.".replace("%", "\N{NO-BREAK SPACE}%"),
        "ends": ["differ", "alike"],
        **_common(),
    }


def _side(heatmap: StimulusHeatmap, name: str, session: Session) -> dict[str, Any]:
    """An image with its heatmap."""
    folder = session.new_folder()
    h, w = heatmap.grid.shape
    return {
        "name": name,
        "image": values.file_value(values.save_display_copy(heatmap.image, folder)),
        "width": heatmap.placement.width,
        "height": heatmap.placement.height,
        "box": list(heatmap.placement.box),
        "h": h,
        "w": w,
        "grid": np.asarray(heatmap.grid, float).ravel().round(6).tolist(),
    }


def _common() -> dict[str, Any]:
    return {"colors": [list(color) for color in COLORS], "run": secrets.token_hex(4)}


# The tab ----------------------------------------------------------------------------------------------------


def build(session: gr.State) -> None:
    """Lay out the tab."""
    gather = component(
        "gather", value={"stimuli": "shapes", "backbone": DEFAULT}, backbones=backbones(), most=MOST
    )
    stimuli, heatmaps = component("stimuli"), component("heatmaps")
    working = {"trigger_mode": "always_last", "show_progress": "minimal", **PRIVATE, **COMPUTE}
    gather.gathered(
        on_gathered, [gather, session], [stimuli, heatmaps, session], show_progress_on=stimuli, **working
    )
    stimuli.selected(on_selected, [session], heatmaps, show_progress_on=heatmaps, **working)
