"""The page: its layout, and what happens on every event. All computing is `ais.explain`'s."""

from __future__ import annotations

import math
import os
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported

import gradio as gr
from gradio import media
from PIL import Image

from ais.demo import catalog, gpu, similarity_tab, values
from ais.demo.catalog import Catalog, Offer, head_source
from ais.demo.components import HERE, part, text, uploaded
from ais.demo.session import KEEP, Session, new_folder, problem, sentence
from ais.errors import AISError, HubError, ImageError
from ais.explain import load_head_cached
from ais.heads import CONFIG, EMBEDDED
from ais.heatmaps import METHODS
from ais.hub import HEADS_VARIABLE, cached_snapshot

EXAMPLES = (("cheetah.jpg", "A running cheetah"), ("tower.jpg", "A tower at dusk"), ("lion.jpg", "Two lions"))
ABOUT_METHODS = {
    "ais": "What each feature map adds to the score, measured by taking it away: exact and quick.",
    "gradcam": "How the score would change with the feature maps, by its gradient: quick, approximate.",
    "occlusion": "How the score changes when a grey window hides a place: slower, some seconds.",
}
GONE = "This picture has been put away. Choose it again."
AWAY = "This head has been put away. Add it again."
_COMPUTE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "compute"}
# Whatever may wait for the Hub, so that scoring does not wait with it; `gpu` still takes one picture at a time.
_FETCH: dict[str, Any] = {"concurrency_limit": 3, "concurrency_id": "fetch"}
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


offered = Catalog(os.environ.get(HEADS_VARIABLE, ""))


# What happens -----------------------------------------------------------------------------------------------


def show(
    session: Session | None, choice: dict[str, str], picked: tuple[Path | None, str] | None = None
) -> tuple[Any, ...]:
    """Explain a picture: values for overlay, score, maps and about, and the session.

    Args:
        picked: the file and its name; the session's if None. It is the session's from when its result is shown, or
            at once if there is no result yet that another choice should change.
    """
    session = session or Session()
    picture, title = picked or (session.picture, session.name)
    if session.explanation is None:
        session.picture, session.name = picture, title
    try:
        if picture is None or not picture.is_file():
            raise ImageError(GONE)
        name = choice["head"]
        source, public = head_source(name), not offered.owned(name)
        if not isinstance(source, str) and not cached_snapshot(source, CONFIG, public=public):
            raise HubError(AWAY)
        explanation = gpu.explain_picture(picture, name, choice["method"], public=public)
        head = load_head_cached(source, public=public)
        folder = session.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        copy = values.save_display_copy(explanation.image, folder)
        session.picture, session.name, session.explanation = picture, title, explanation
        overlay = values.overlay_value(explanation, title, copy)
        about = values.about_value(head.config, catalog.card(name, public))
        same = {"run": folder.name, "choice": {key: choice[key] for key in ("head", "method")}}
        shown = (overlay | same, values.score_value(explanation, head) | same, None, about | same)
        return (*shown, session)
    except Exception as error:  # what is shown stays, and with it what it was made of
        return problem(error), gr.skip(), gr.skip(), gr.skip(), session


def on_picked(
    picked: tuple[Path, str] | None, choice: dict[str, str], session: Session | None
) -> tuple[Any, ...]:
    return show(session, choice, uploaded(picked))


def on_example(choice: dict[str, str], session: Session | None, event: gr.EventData) -> tuple[Any, ...]:
    index = event._data.get("index")
    if not (isinstance(index, int) and 0 <= index < len(EXAMPLES)):
        return show(session, choice)
    name = EXAMPLES[index][0]
    return show(session, choice, (Path(media.get_image(name)), name))


def on_chosen(choice: dict[str, str], session: Session | None) -> tuple[Any, ...]:
    if session is None or session.picture is None:
        return tuple(gr.skip() for _ in range(5))
    return show(session, choice)


def on_add(event: gr.EventData) -> dict[str, Any]:
    """The head that a visitor named, fetched for this visitor alone."""
    asked = str(event._data.get("asked", ""))
    try:
        found = offered.find(asked.strip()) or catalog.offer(asked, public=True)
    except Exception as error:
        found = Offer(values.short(asked), reason=sentence(error))
    return asdict(found) | {"run": secrets.token_hex(4)}


def current_offers(_: Any = None) -> list[dict[str, Any]]:
    """The heads that the page offers to everybody, as they are now."""
    return [asdict(one) for one in offered.offers()]


def retry_offer(asked: Any) -> None:
    """Fetch a head anew that failed."""
    offered.retry(str(asked[0] if isinstance(asked, list) and asked else asked))


def on_place(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The feature maps that made the place clicked."""
    try:
        if session is None or session.explanation is None:
            raise ImageError(GONE)
        x, y = float(event._data["x"]), float(event._data["y"])
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ImageError("This is no place in the picture.")
        explanation = session.explanation
        maps = values.maps_value(explanation.contributions(x, y), x, y, bool(explanation.members))
        return maps | {"run": secrets.token_hex(4)}
    except Exception as error:
        return problem(error)


def on_save(session: Session | None, event: gr.EventData) -> dict[str, Any]:
    """The file asked for, on the scale shown."""
    wanted = {"npy": "heatmap.npy", "json": "explanation.json"}
    try:
        if session is None or session.explanation is None:
            raise ImageError(GONE)
        kind, scale, number = (event._data.get(key) for key in ("kind", "scale", "member"))
        members = session.explanation.members
        if number is not None and not (type(number) is int and 0 <= number < len(members)):
            raise AISError("There is no such member.")
        shown = session.explanation if number is None else members[number]
        if kind not in wanted or scale not in shown.grids:
            raise AISError("There is no such file.")
        folder = session.folder / secrets.token_hex(8)
        file, *_ = replace(shown, scale=scale).save(folder, files=[wanted[kind]])
        of = "" if number is None else f"-{values.stem(shown.head)}"
        return values.file_value(file.rename(folder / f"{values.stem(session.name)}{of}-{scale}.{kind}"))
    except Exception as error:
        raise gr.Error(sentence(error), print_exception=False) from error


def api_explain(image: Any, head: str = EMBEDDED, method: str = "ais") -> tuple[dict[str, Any], str, str]:
    """The score that people would give a picture, and where in the picture it comes from.

    Args:
        image: the picture: JPEG, PNG, WebP, GIF, BMP or TIFF.
        head: what scores it: one that comes with AIS, or one on the Hub, user/repo or user/repo@revision.
        method: ais, gradcam or occlusion.

    Returns:
        A JSON object with score, low, high, percentile, head, backbone, method, seconds and more; the picture
        with the heatmap over it (PNG); the heatmap at the picture's size (.npy, NaN where not seen).
    """
    try:
        path, _ = uploaded(image)
        if path is None:
            raise ImageError("There is no picture. Send one as `image`.")
        found = offered.find(head) or catalog.offer(head, public=True)
        explanation = gpu.explain_picture(path, found.head, method, public=not offered.owned(found.head))
        heatmap, overlay, document, *_ = explanation.save(new_folder())
        document.unlink()  # its content is the first thing returned
        return explanation.to_dict(), str(overlay), str(heatmap)
    except Exception as error:
        raise gr.Error(sentence(error), print_exception=False) from error


# The page ---------------------------------------------------------------------------------------------------


def build() -> gr.Blocks:
    """The page and its API, ready for `launch(**launch_options())`."""
    default = load_head_cached(EMBEDDED)
    methods = [{"name": name, "title": m.label, **_words(name)} for name, m in METHODS.items()]
    with gr.Blocks(title="AIS", fill_width=True, delete_cache=(KEEP, KEEP)) as demo:
        session = gr.State(None, time_to_live=KEEP, delete_callback=lambda s: s and s.discard())
        with gr.Column(elem_id="ais-page"):
            part("top")
            with gr.Column(elem_id="ais-hero"):
                picker = part("picker", examples=[_example(*example) for example in EXAMPLES])
                overlay = part("overlay")
            with gr.Column(elem_id="ais-side"):
                score = part("score")
                choices = part(
                    "choices",
                    value={"head": EMBEDDED, "method": "ais"},
                    offers=current_offers(),
                    methods=methods,
                    server_functions=[current_offers, retry_offer],
                )
                maps = part("maps")
            about = part("about", value=values.about_value(default.config, catalog.card(EMBEDDED, False)))
            download, arrival = part("download"), part("arrival")
            similarity_tab.build(session, _COMPUTE)

        shown = [overlay, score, maps, about, session]
        explaining = {"show_progress": "minimal", "show_progress_on": overlay} | _PRIVATE | _COMPUTE
        picker.picked(on_picked, [picker, choices, session], shown, trigger_mode="multiple", **explaining)
        picker.example(on_example, [choices, session], shown, trigger_mode="multiple", **explaining)
        choices.chosen(on_chosen, [choices, session], shown, trigger_mode="always_last", **explaining)
        choices.added(
            on_add,
            None,
            arrival,
            trigger_mode="multiple",
            show_progress="minimal",
            show_progress_on=arrival,
            **_PRIVATE,
            **_FETCH,
        )
        overlay.place(
            on_place, [session], maps, trigger_mode="always_last", show_progress="hidden", **_PRIVATE
        )
        overlay.save(on_save, [session], download, show_progress="hidden", **_PRIVATE)

        gr.Button(visible=False).click(
            api_explain,
            [
                gr.Image(visible=False, label="image"),
                gr.Textbox(EMBEDDED, visible=False, label="head"),
                gr.Textbox("ais", visible=False, label="method"),
            ],
            [
                gr.JSON(visible=False, label="result"),
                gr.File(visible=False, label="overlay"),
                gr.File(visible=False, label="heatmap"),
            ],
            api_name="explain",
            preprocess=False,  # the file as it came: `ais.images` reads it, as everywhere
            **_FETCH,
        )
    return demo.queue(max_size=32)


def launch_options() -> dict[str, Any]:
    """What `launch` needs for this page, here and on a Space."""
    names = ("-apple-system", "Segoe UI", "Roboto", "sans-serif")  # what machines have: none is fetched
    theme = gr.themes.Base(
        font=[gr.themes.Font(name) for name in names], font_mono=[gr.themes.Font("monospace")]
    )
    return {
        "theme": theme,
        "css": text("page.css"),
        "favicon_path": str(HERE / "icon.svg"),
        "max_file_size": "100mb",
        "enable_monitoring": False,
        "run_history": False,  # it would keep people's pictures in the browser
        "state_session_capacity": 48,  # each keeps its picture in memory
        "footer_links": [],
    }


def warm() -> None:
    """Prepare the default head, so that the first picture is quick, and begin to fetch the owner's heads."""
    gpu.prepare(EMBEDDED)
    offered.start()


def _words(method: str) -> dict[str, str]:
    wait = (
        "Hiding one place after another: some seconds" if method == "occlusion" else "Looking at the picture"
    )
    return {"about": ABOUT_METHODS.get(method, ""), "wait": wait}


def _example(file: str, title: str) -> dict[str, str]:
    with Image.open(media.get_image(file)) as image:
        image.thumbnail((288, 288))
        return {"title": title, "thumbnail": values.data_address(image)}
