"""The page: its layout, and what happens on every event. All computing is `ais.explain`'s."""

from __future__ import annotations

import atexit
import math
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # of which it makes a table after every request

import gradio as gr
from gradio import media
from PIL import Image

from ais.attribution.explanation import Explanation
from ais.attribution.methods import METHODS
from ais.demo import catalog, door, gpu, similarity_tab, storage, values
from ais.demo.catalog import Catalog, Offer, head_source
from ais.demo.components import HERE, part, text, uploaded
from ais.demo.session import KEEP, Session, fields, problem, sentence, text_field
from ais.errors import AISError, HubError, ImageError
from ais.heads.config import CONFIG, EMBEDDED
from ais.heads.loading import load_head_cached
from ais.io.hub import HEADS_VARIABLE, Repository, cached_snapshot
from ais.progress import Progress

EXAMPLES = (("cheetah.jpg", "A running cheetah"), ("tower.jpg", "A tower at dusk"), ("lion.jpg", "Two lions"))
ABOUT_METHODS = {
    "ais": "What each feature map adds to the score, measured by taking it away: exact and quick.",
    "gradcam": "How the score would change with the feature maps, by its gradient: quick, approximate.",
    "occlusion": "How the score changes when a grey window hides a place: slow, hundreds of passes.",
}
GONE = "This picture is no longer on the server. Upload it again."
NO_PICTURE = "There is no picture of this name here: none was sent, or it is no longer on the server. Send it as image."
AWAY = "This head is no longer on the server. Add it again."
SAVED = (
    16_000_000  # pixels of a heatmap or an overlay that is saved; of a larger picture they are made smaller
)
# All that compute wait in Gradio's threads, where `gpu.turns` says whose turn it is and who has too many waiting.
_COMPUTE: dict[str, Any] = {"concurrency_limit": 100, "concurrency_id": "compute"}
_FETCH: dict[str, Any] = {"concurrency_limit": 8, "concurrency_id": "fetch"}  # whatever waits for the Hub
_QUICK: dict[str, Any] = {
    "concurrency_limit": 4,
    "concurrency_id": "quick",
}  # it waits for nobody's computing
BAR = gr.Progress()  # Gradio gives the one of the request for it
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


offered = Catalog(os.environ.get(HEADS_VARIABLE, ""))


# What happens -----------------------------------------------------------------------------------------------


def show(
    session: Session | None,
    choice: Any,
    picked: tuple[Path | None, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Any, ...]:
    """Explain a picture: values for overlay, score, maps and about, and the session.

    Args:
        picked: the file and its name; the session's if None. It is the session's from when its result is shown, or
            at once if there is no result yet that another choice should change.
        progress: told how far a slow method is.
    """
    session = session or Session()
    picture, title = picked or (session.picture, session.name)
    if session.explanation is None:
        session.picture, session.name = picture, title
    try:
        name, method = text_field(choice, "head", EMBEDDED), text_field(choice, "method", "ais")
        if picture is None or not picture.is_file():
            raise ImageError(GONE)
        source, public = head_source(name), not offered.owned(name)
        if isinstance(source, Repository) and not cached_snapshot(source, CONFIG, public=public):
            raise HubError(AWAY)
        copies = []

        def copy(explanation: Explanation) -> None:
            copies.append(values.save_display_copy(explanation.image, session.new_folder()))

        with storage.using(picture):
            explanation = gpu.explain_picture(
                picture, name, method, public=public, progress=progress, finish=copy
            )
        head = load_head_cached(source, public=public)
        session.picture, session.name = picture, title
        session.keep(explanation)
        overlay = values.overlay_value(explanation, title, copies[0])
        about = values.about_value(head.config, catalog.card(name, public))
        same = {"run": copies[0].parent.name, "choice": {"head": name, "method": method}}
        shown = (overlay | same, values.score_value(explanation, head) | same, None, about | same)
        return (*shown, session)
    except Exception as error:  # what is shown stays, and with it what it was made of
        return problem(error), gr.skip(), gr.skip(), gr.skip(), session


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
    if session is None or session.picture is None:
        return tuple(gr.skip() for _ in range(5))
    return show(session, choice, progress=_told(bar))


def _told(bar: gr.Progress) -> Progress:
    """Tells the browser how far a computation is, and how long it will take."""
    start = time.monotonic()

    def tell(done: int, total: int) -> None:
        left = (time.monotonic() - start) * (total - done) / done if done > total / 20 else 0.0
        bar((done, total), desc=f"about {math.ceil(left)} s left" if left > 1 else None)

    return tell


def on_add(event: gr.EventData) -> dict[str, Any]:
    """The head that a visitor named, fetched for this visitor alone."""
    asked = fields(event).get("asked")
    try:
        name = text_field({"head": asked}, "head", "user/repo").strip()
        found = offered.find(name) or catalog.offer_to_visitor(name)
    except Exception as error:
        found = Offer(values.short(str(asked or "")), reason=sentence(error, asked))
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
        place: list[Any] = [fields(event).get(axis) for axis in "xy"]
        if not all(type(at) in (int, float) and abs(at) < 1e9 for at in place):
            raise ImageError("This is no place in the picture: x and y should be numbers.")
        (x, y), explanation = place, session.explanation
        maps = values.maps_value(explanation.contributions(x, y), x, y, bool(explanation.members))
        return maps | {"run": secrets.token_hex(4)}
    except Exception as error:
        return problem(error)


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
            file, *rest = turn.run(lambda: saved.save(folder, files=[wanted[kind]], max_pixels=SAVED))
        for member in rest:
            shutil.rmtree(member.parent)
        of = "" if number is None else f"-{values.stem(shown.head)}"
        unit = "relative" if saved.scale == "relative" else values.stem(saved.unit)  # points-per-cell
        return values.file_value(file.rename(folder / f"{values.stem(session.name)}{of}-{unit}{file.suffix}"))
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
        with the heatmap over it (PNG); the heatmap at the picture's size (.npy, NaN where not seen). Of a picture with
        more than 16 megapixels both are smaller than it; heatmap_size says how large.
    """
    try:
        path, _ = uploaded(image)
        if path is None:
            raise ImageError(NO_PICTURE)
        said = {"head": head, "method": method}
        name, method = text_field(said, "head", EMBEDDED).strip(), text_field(said, "method", "ais")
        found = offered.find(name) or catalog.offer_to_visitor(name)
        files: list[Path] = []

        def save(made: Explanation) -> None:
            alone = replace(made, members=())
            names = ["overlay.png", "heatmap.npy"]
            files.extend(alone.save(storage.new_folder(), files=names, max_pixels=SAVED))

        public = not offered.owned(found.head)
        with storage.using(path):
            made = gpu.explain_picture(path, found.head, method, public=public, finish=save)
        return made.to_dict(max_pixels=SAVED), *map(str, files)  # type: ignore[return-value]
    except Exception as error:
        raise gr.Error(sentence(error, head), print_exception=False) from error


# The page ---------------------------------------------------------------------------------------------------


def build() -> gr.Blocks:
    """The page and its API, ready for `launch(**launch_options())`."""
    _own_folder()
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
            on_place,
            [session],
            maps,
            trigger_mode="always_last",
            show_progress="hidden",
            **_PRIVATE,
            **_QUICK,
        )
        overlay.save(on_save, [session], download, show_progress="hidden", **_PRIVATE, **_QUICK)

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
            preprocess=False,  # the file as it came: `ais.images.reading` reads it, as everywhere
            **_COMPUTE,
        )
    return demo.queue(max_size=128, api_open=False)  # nothing passes the queue by


def _own_folder() -> None:
    """A temporary folder of this page alone, unless its owner named one: what is too much in it is removed."""
    if not os.environ.get("GRADIO_TEMP_DIR"):
        os.environ["GRADIO_TEMP_DIR"] = made = tempfile.mkdtemp(prefix="ais-page-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)


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
        "app_kwargs": {"middleware": door.middleware()},
        "max_file_size": "100mb",
        "max_threads": 160,  # most of them wait for their turn
        "ssr_mode": False,  # another server in front would answer without our headers
        "enable_monitoring": False,
        "run_history": False,  # it would keep people's pictures in the browser
        "state_session_capacity": 400,  # what is large in one has a bound of its own
        "footer_links": [],
    }


def warm() -> None:
    """Prepare the default head, so that the first picture is quick, and begin to fetch the owner's heads."""
    storage.sparing()
    gpu.prepare(EMBEDDED)
    offered.start()


def _words(method: str) -> dict[str, str]:
    wait = "Hiding one place after another" if METHODS[method].slow else "Looking at the picture"
    return {"about": ABOUT_METHODS.get(method, ""), "wait": wait}


def _example(file: str, title: str) -> dict[str, str]:
    with Image.open(media.get_image(file)) as image:
        image.thumbnail((288, 288))
        return {"title": title, "thumbnail": values.data_address(image)}
