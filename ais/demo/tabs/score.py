"""The Score tab: an image's score, and where in the image it comes from. All computing is `ais.explain`'s."""

from __future__ import annotations

import math
import secrets
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio import media
from PIL import Image

from ais.attribution.baselines import BASELINES
from ais.attribution.explanation import Explanation
from ais.attribution.methods import METHODS
from ais.demo import catalog, gpu, storage, values
from ais.demo.catalog import HeadEntry, head_source, offered
from ais.demo.components import component, uploaded
from ais.demo.queues import COMPUTE, FETCH, PRIVATE, QUICK
from ais.demo.session import Session, error_message, fields, problem, text_field
from ais.demo.visitors import StoppedError, stops, visitor
from ais.errors import AISError, HubError, ImageError
from ais.heads.config import CONFIG, EMBEDDED
from ais.heads.loading import load_head_cached, rating_head
from ais.io.hub import Repository, cached_snapshot
from ais.progress import Progress

EXAMPLES = (("cheetah.jpg", "A running cheetah"), ("tower.jpg", "A tower at dusk"), ("lion.jpg", "Two lions"))
METHOD = "contribution"  # that the page begins with
LACKING = "This head has no typical picture to compare with."
GONE = "This image is no longer on the server. Upload it again."
AWAY = "This head is no longer on the server. Add it again."
BAR = gr.Progress()  # Gradio gives the one of the request for it


# What happens -----------------------------------------------------------------------------------------------


def show(
    session: Session | None,
    choice: Any,
    picked: tuple[Path | None, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Any, ...]:
    """Explain an image: values for overlay, score, maps and about, and the session.

    Args:
        picked: the file and its name; the session's if None. It is the session's from when its result is shown, or
            at once if there is no result yet that another choice should change.
        progress: told how far a slow method is.
    """
    session = session or Session()
    image, title = picked or (session.image, session.name)
    if session.explanation is None:
        session.image, session.name = image, title
    try:
        name, choices = text_field(choice, "head", EMBEDDED), _choices(choice)
        if image is None or not image.is_file():
            raise ImageError(GONE)
        source, public = head_source(name), not offered.owned(name)
        if isinstance(source, Repository) and not cached_snapshot(source, CONFIG, public=public):
            raise HubError(AWAY)
        copies = []

        def copy(explanation: Explanation) -> None:
            copies.append(values.save_display_copy(explanation.image, session.new_folder()))

        with storage.using(image):
            explanation = gpu.explain_image(
                image, name, choices, public=public, progress=progress, finish=copy
            )
        head = rating_head(load_head_cached(source, public=public))
        session.image, session.name = image, title
        session.keep(explanation)
        overlay = values.overlay_value(explanation, title, copies[0])
        about = values.about_value(head.config, catalog.card(name, public))
        made = {"head": name, "method": explanation.method, "baseline": explanation.baseline}
        same = {"run": copies[0].parent.name, "choice": made}
        shown = (overlay | same, values.score_value(explanation, head) | same, None, about | same)
        return (*shown, session)
    except StoppedError:
        return (*(gr.skip() for _ in range(4)), session)
    except Exception as error:  # what is shown stays, and with it what it was made of
        return problem(error), gr.skip(), gr.skip(), gr.skip(), session


def _choices(choice: Any) -> gpu.Choices:
    """How a visitor wants the heatmap to be made; a method's own baseline where none is said.

    Raises:
        AISError: it is not said in text.
    """
    said = isinstance(choice, dict) and choice.get("baseline") not in (None, "")
    baseline = text_field(choice, "baseline", "zero") if said else ""
    return gpu.Choices(text_field(choice, "method", METHOD), baseline=baseline, scale="points")


def on_picked(picked: Any, choice: Any, session: Session | None, bar: gr.Progress = BAR) -> tuple[Any, ...]:
    return show(session, choice, uploaded(picked), _told(bar))


def on_example(
    choice: Any, session: Session | None, event: gr.EventData, bar: gr.Progress = BAR
) -> tuple[Any, ...]:
    index = fields(event).get("index")
    if not (type(index) is int and 0 <= index < len(EXAMPLES)):
        return show(session, choice, progress=_told(bar))
    name = EXAMPLES[index][0]
    return show(session, choice, (Path(media.get_image(name)), name), _told(bar))


def on_chosen(choice: Any, session: Session | None, bar: gr.Progress = BAR) -> tuple[Any, ...]:
    if session is None or session.image is None:
        return tuple(gr.skip() for _ in range(5))
    return show(session, choice, progress=_told(bar))


def _told(bar: gr.Progress) -> Progress:
    """Tells the browser how far a computation is, and how long it will take; ends it when its visitor stops it."""
    start, session = time.monotonic(), visitor().session

    def report(done: int, total: int) -> None:
        stops.check(session, start)
        left = (time.monotonic() - start) * (total - done) / done if done > total / 20 else 0.0
        bar((done, total), desc=f"about {math.ceil(left)} s left" if left > 1 else None)

    return report


def on_add(event: gr.EventData) -> dict[str, Any]:
    """The head that a visitor named, fetched for this visitor alone."""
    asked = fields(event).get("asked")
    try:
        name = text_field({"head": asked}, "head", "user/repo").strip()
        found = offered.find(name) or catalog.fetch_for_visitor(name)
    except Exception as error:
        found = HeadEntry(values.short(str(asked or "")), reason=error_message(error, asked))
    return asdict(found) | {"run": secrets.token_hex(4)}


def current_heads(_: Any = None) -> list[dict[str, Any]]:
    """The heads that the page offers to everybody, as they are now."""
    return [asdict(one) for one in offered.entries()]


def retry_head(asked: Any) -> None:
    """Fetch again a head that failed."""
    offered.retry(str(asked[0] if isinstance(asked, list) and asked else asked))


def on_place(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The feature maps that made the place clicked."""
    try:
        if session is None or session.explanation is None:
            raise ImageError(GONE)
        place: list[Any] = [fields(event).get(axis) for axis in "xy"]
        if not all(type(at) in (int, float) and abs(at) < 1e9 for at in place):
            raise ImageError("This is no place in the picture: x and y should be numbers.")
        (x, y), explanation = place, session.explanation
        return values.maps_value(explanation, x, y) | {"run": secrets.token_hex(4)}
    except Exception as error:
        return problem(error)


def on_stop() -> None:
    """End the slow methods that are at work for the visitor."""
    stops.ask(visitor().session)


def on_save(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The file asked for, on the scale shown."""
    wanted = {"npy": "heatmap.npy", "density": "heatmap.npy", "json": "explanation.json"}
    try:
        if session is None or session.explanation is None:
            raise ImageError(GONE)
        kind, scale, number = (cast(Any, fields(event).get(key)) for key in ("kind", "scale", "member"))
        members = session.explanation.members
        if number is not None and not (type(number) is int and 0 <= number < len(members)):
            raise AISError("There is no such member.")
        shown = session.explanation if number is None else members[number]
        if not (isinstance(kind, str) and kind in wanted) or scale not in [*shown.grids]:
            raise AISError("There is no such file.")
        folder = session.new_folder()
        saved = replace(shown, scale="density" if kind == "density" else scale)
        with gpu.saves.admitted() as turn:
            file, *rest = turn.run(lambda: saved.save(folder, files=[wanted[kind]], max_pixels=storage.SAVED))
        for member in rest:
            shutil.rmtree(member.parent)
        of = "" if number is None else f"-{values.stem(shown.head)}"
        unit = "relative" if saved.scale == "relative" else values.stem(saved.unit)  # points-per-cell
        return values.file_value(file.rename(folder / f"{values.stem(session.name)}{of}-{unit}{file.suffix}"))
    except Exception as error:
        raise gr.Error(error_message(error), print_exception=False) from error


# The tab ----------------------------------------------------------------------------------------------------


def build(session: gr.State) -> None:
    """Lay out the tab."""
    default = rating_head(load_head_cached(head_source(EMBEDDED)))
    with gr.Column(elem_id="ais-hero"):
        picker = component("picker", examples=[_example(*example) for example in EXAMPLES])
        overlay = component("overlay")
    with gr.Column(elem_id="ais-side"):
        score = component("score")
        choices = component(
            "choices",
            value={"head": EMBEDDED, "method": METHOD, "baseline": METHODS[METHOD].baselines[0]},
            entries=current_heads(),
            methods=[_method(name) for name in METHODS],
            lacking=LACKING,
            server_functions=[current_heads, retry_head],
        )
        maps = component("maps")
    about = component("about", value=values.about_value(default.config, catalog.card(EMBEDDED, False)))
    download, arrival = component("download"), component("arrival")

    shown = [overlay, score, maps, about, session]
    explaining = {"show_progress": "minimal", "show_progress_on": overlay, **PRIVATE, **COMPUTE}
    picker.picked(on_picked, [picker, choices, session], shown, trigger_mode="multiple", **explaining)
    picker.example(on_example, [choices, session], shown, trigger_mode="multiple", **explaining)
    choices.chosen(on_chosen, [choices, session], shown, trigger_mode="always_last", **explaining)
    fetching = {"show_progress": "minimal", "show_progress_on": arrival, **PRIVATE, **FETCH}
    choices.added(on_add, None, arrival, trigger_mode="multiple", **fetching)
    quick = {"show_progress": "hidden", **PRIVATE, **QUICK}
    overlay.place(on_place, [session], maps, trigger_mode="always_last", **quick)
    overlay.stop(on_stop, None, None, **quick)
    overlay.save(on_save, [session], download, **quick)


def _method(name: str) -> dict[str, Any]:
    """A method, as `choices.js` offers it."""
    method = METHODS[name]
    baselines = [
        {"name": key, "title": BASELINES[key].label, "about": BASELINES[key].about}
        for key in method.baselines
    ]
    wait = "Looking at the picture many times" if method.slow else "Looking at the picture"
    shown = {"name": name, "title": method.label, "about": method.about, "slow": method.slow}
    return shown | {"wait": wait, "baselines": baselines}


def _example(file: str, title: str) -> dict[str, str]:
    with Image.open(media.get_image(file)) as image:
        image.thumbnail((288, 288))
        return {"title": title, "thumbnail": values.data_address(image)}
