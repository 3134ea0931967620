"""The Similarity tab: its layout, what happens on every event, and what its parts show."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
import numpy as np

from ais.attribution.colors import COLORS
from ais.demo import cohorts, storage, values
from ais.demo.cohorts import DEFAULT, MOST, Compared, Pictures
from ais.demo.components import part, uploaded
from ais.demo.session import Session, fields, problem, text_field
from ais.errors import AISError
from ais.rsa.importance import pair_importance
from ais.workflows.align import Look

GONE = "These pictures are no longer on the server. Choose them again."

# What happens -----------------------------------------------------------------------------------------------


def on_gathered(asked: Any, session: Session | None) -> Iterator[tuple[Any, ...]]:
    """Compare the cohort asked for: values for the map, the heatmaps and the session, as they come."""
    session = session or Session()
    try:
        asked = asked if isinstance(asked, dict) else {}
        backbone = text_field(asked, "backbone", DEFAULT)
        pictures = _pictures(asked, session)
        with storage.using(*pictures.files):
            for step in cohorts.compare(pictures, backbone):
                if isinstance(step, str):
                    yield {"busy": step}, gr.skip(), gr.skip()
                else:
                    session.cohort = step
                    yield cohort_value(step), None, session
    except Exception as error:
        yield problem(error), gr.skip(), session


def on_look(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The heatmap of one picture, or those of two."""
    try:
        if session is None or session.cohort is None:
            raise AISError(GONE)
        cohort = session.cohort
        asked = fields(event)
        chosen: list[Any] = [asked.get("one"), asked.get("other")]
        if chosen[1] is None:
            del chosen[1]
        if not all(type(n) is int and 0 <= n < len(cohort) for n in chosen) or len({*chosen}) < len(chosen):
            raise AISError("There is no such picture in this cohort.")
        if not all(cohort.pictures.files[n].is_file() for n in chosen):
            raise AISError(GONE)
        if len(chosen) == 1:
            return one_value(cohort, chosen[0], session)
        return pair_value(cohort, chosen[0], chosen[1], session)
    except Exception as error:
        return problem(error)


def _pictures(asked: Mapping[str, Any], session: Session) -> Pictures:
    """The cohort drawn, the one that comes with the request, or the one that came before."""
    if asked.get("cohort") != "own":
        return cohorts.drawn()
    if asked.get("pictures"):
        sent = asked["pictures"]
        files = [uploaded(one) for one in (sent if isinstance(sent, list) else [])]
        if any(file is None for file, _ in files):
            raise AISError(GONE)
        path, name = uploaded(asked.get("matrix"))
        session.own = cohorts.uploaded_cohort(
            [(file, title) for file, title in files if file is not None],
            None if path is None else (path, name),
        )
    if session.own is None or not all(file.is_file() for file in session.own.files):
        raise AISError(GONE)
    return session.own


# What is shown ----------------------------------------------------------------------------------------------


def cohort_value(cohort: Compared) -> dict[str, Any]:
    """For `cohort.js`: the numbers, and the pictures with their places in both geometries."""
    network, people = cohort.places()
    named = zip(cohort.pictures.names, cohort.thumbnails, strict=True)
    return {
        "numbers": numbers(cohort),
        "rule": cohort.pictures.by_rule,
        "pictures": [{"name": name, "thumbnail": values.data_address(image)} for name, image in named],
        "places": {"network": network.round(4).tolist(), "people": people.round(4).tolist()},
        "run": secrets.token_hex(4),
    }


def numbers(cohort: Compared) -> list[dict[str, str]]:
    """The line of numbers: what each is called, its value, and what it means."""
    helps, maps = int((cohort.importance > 0).sum()), len(cohort.importance)
    people = len(cohort.pictures.judgments)
    them = "the rule" if cohort.pictures.by_rule else "people"
    line = [
        {
            "name": "Alignment",
            "value": f"{cohort.alignment:.2f}".replace("-", "−"),
            "about": f"Spearman's correlation of the network's dissimilarities of all pairs with those by {them}.",
        }
    ]
    if cohort.ceiling:
        low, high = cohort.ceiling
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


def one_value(cohort: Compared, number: int, session: Session) -> dict[str, Any]:
    """For `looks.js`: what brings a picture's comparisons with the others nearer to people's, and what is salient."""
    look = cohorts.look_at(cohort, number, cohort.image_importance[number])
    them = "the rule" if cohort.pictures.by_rule else "people"
    agreement = f"{look.agreement:.2f}".replace("-", "−")
    side = _side(look, cohort.pictures.names[number], session)
    return {
        "title": cohort.pictures.names[number],
        "lead": f"Red: what brings this picture’s comparisons with the others nearer to {them}’s. "
        "Blue: what takes them away.",
        "sides": [side | {"label": "Alignment importance"}],
        "saliency": look.saliency.ravel().round(5).tolist(),
        "meaning": f"On the right, what is merely salient (spectral residual). Correlation of the two: {agreement}.",
        "ends": [f"away from {them}", f"nearer to {them}"],
        **_common(),
    }


def pair_value(cohort: Compared, one: int, other: int, session: Session) -> dict[str, Any]:
    """For `looks.js`: what makes two pictures alike to the network."""
    shares = pair_importance(cohort.embedding, one, other)
    sides = [
        _side(cohorts.look_at(cohort, n, shares), cohort.pictures.names[n], session)
        | {"label": cohort.pictures.names[n]}
        for n in (one, other)
    ]
    them = "by the rule" if cohort.pictures.by_rule else "to people"
    network, people = (cohorts.alike(rdm, one, other) for rdm in (cohort.model_rdm, cohort.human_rdm))
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


def _side(look: Look, name: str, session: Session) -> dict[str, Any]:
    """A picture with its heatmap."""
    folder = session.new_folder()
    h, w = look.grid.shape
    return {
        "name": name,
        "picture": values.file_value(values.save_display_copy(look.picture, folder)),
        "width": look.placement.width,
        "height": look.placement.height,
        "box": list(look.placement.box),
        "h": h,
        "w": w,
        "grid": np.asarray(look.grid, float).ravel().round(6).tolist(),
    }


def _common() -> dict[str, Any]:
    return {"colors": [list(color) for color in COLORS], "run": secrets.token_hex(4)}


# The tab ----------------------------------------------------------------------------------------------------


def build(session: gr.State, compute: Mapping[str, Any]) -> None:
    """Lay out the tab.

    Args:
        compute: the slot that it shares with all that computes.
    """
    with gr.Column(elem_id="ais-similarity"):
        gather = part(
            "gather",
            value={"cohort": "shapes", "backbone": DEFAULT},
            backbones=cohorts.backbones(),
            most=MOST,
        )
        cohort, looks = part("cohort"), part("looks")
    working = {"api_visibility": "private", "show_progress": "minimal", **compute}
    gather.gathered(
        on_gathered,
        [gather, session],
        [cohort, looks, session],
        trigger_mode="always_last",
        show_progress_on=cohort,
        **working,
    )
    cohort.look(on_look, [session], looks, trigger_mode="always_last", show_progress_on=looks, **working)
