"""What the page's server allows one visitor, and how much it keeps."""

from __future__ import annotations

import errno
import gc
import logging
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ais import explain
from ais.demo import catalog, gpu, storage, turns, visitors
from ais.demo import session as sessions
from ais.demo.catalog import BROKEN, Catalog, Fetches, Places, check_backbones
from ais.demo.session import AILING, FULL, Session, Shelf, error_message
from ais.demo.tabs import score, similarity
from ais.demo.turns import GoneError, Limit, TurnError, Turns
from ais.demo.visitors import Listeners, StoppedError, Stops, Visitor, address
from ais.errors import AISError, DataError, HeadError, HubError
from ais.io.files import write_atomically
from helpers.heads import make_head


class Stop(Exception):
    """Not one of ours."""


@pytest.fixture
def as_visitor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Who asks from now on, in each thread for itself."""
    here = threading.local()
    monkeypatch.setattr(turns, "visitor", lambda: getattr(here, "who", Visitor()))

    def be(address: str = "", session: str = "", gone: Callable[[], bool] = lambda: False) -> None:
        here.who = Visitor(address, session)
        here.who.gone = gone

    return be


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    (tmp_path / "gradio").mkdir()
    return tmp_path / "gradio"


def start(*targets: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
        time.sleep(0.02)  # in this order
    return threads


# Turns ------------------------------------------------------------------------------------------------------


def test_a_slow_method_tells_its_progress_and_is_ended_by_what_that_raises(photograph: Image.Image) -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done > 30:
            raise Stop

    with pytest.raises(Stop):
        explain(photograph, method="occlusion", progress=stop)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len({total for _, total in told}) == 1
    assert told[-1][0] < told[-1][1]
    explain(photograph, method="gradcam", progress=stop)  # it is over before it could be stopped


def test_quick_ones_go_first_and_between_the_batches_of_slow_ones(
    as_visitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MIN_RUN", 0.0)
    processor, done = Turns(), []
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        as_visitor("1.1.1.1", "a")
        with processor.turn(slow=True) as turn:
            begun.set()
            go.wait(10)
            turn.progress()
            done.append("slow")

    def later() -> None:
        as_visitor("2.2.2.2", "b")
        with processor.turn(slow=True):
            done.append("slow later")

    def quick() -> None:
        as_visitor("3.3.3.3", "c")
        with processor.turn():
            done.append("quick")

    threads = start(slow, later, quick)
    begun.wait(10)
    time.sleep(0.1)
    go.set()
    for thread in threads:
        thread.join(10)
    assert done[0] == "quick"
    assert sorted(done[1:]) == ["slow", "slow later"]


def test_visitors_take_turns(as_visitor: Any) -> None:
    processor, done = Turns(), []
    hold = threading.Event()

    def visit(who: str, number: int) -> Callable[[], None]:
        def run() -> None:
            as_visitor(who, f"{who}{number}")
            with processor.turn():
                done.append(who)
                hold.wait(10)

        return run

    threads = start(*[visit("many", number) for number in range(5)], visit("one", 0), visit("two", 0))
    hold.set()
    for thread in threads:
        thread.join(10)
    assert set(done[1:3]) == {"one", "two"}
    assert done.count("many") == 5


@pytest.mark.parametrize(
    ("who", "slow", "words"),
    [
        (("1.1.1.1", "a"), True, "You have 1 slow request"),
        (("1.1.1.1", "b"), True, "From your address 1 slow"),
        (("2.2.2.2", "c"), True, None),
        (("1.1.1.1", "a"), False, None),
    ],
)
def test_one_who_has_too_many_waiting_is_told_so_at_once(
    as_visitor: Any, monkeypatch: pytest.MonkeyPatch, who: tuple[str, str], slow: bool, words: str | None
) -> None:
    monkeypatch.setattr(turns, "OF_SESSION", Limit(2, 1))
    monkeypatch.setattr(turns, "OF_ADDRESS", Limit(3, 1))
    processor = Turns()
    as_visitor("1.1.1.1", "a")
    with processor.admitted(slow=True):
        as_visitor(*who)
        if words is None:
            with processor.admitted(slow=slow):
                pass
        else:
            with pytest.raises(TurnError, match=words), processor.admitted(slow=slow):
                pass
    with processor.admitted(slow=True):  # the first has gone
        pass


def test_many_are_too_many_of_all(as_visitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "OF_EVERYBODY", Limit(1, 1))
    processor = Turns()
    with processor.admitted():
        as_visitor("9.9.9.9", "z")
        with pytest.raises(TurnError, match=r"The page is busy: .*\.$"), processor.admitted():
            pass


def test_nothing_is_computed_for_one_who_has_gone(as_visitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Turns()
    as_visitor("1.1.1.1", "a", lambda: True)
    with processor.turn(slow=True) as turn:
        with pytest.raises(GoneError):
            turn.progress()
        failed = []

        def wait() -> None:
            as_visitor("2.2.2.2", "b", lambda: True)
            try:
                with processor.turn():
                    raise AssertionError
            except GoneError as error:
                failed.append(error)

        for thread in start(wait):
            thread.join(10)
        assert failed
        as_visitor("1.1.1.1", "a")
    monkeypatch.setattr(turns, "TIME_LIMIT", -1.0)
    with processor.turn(slow=True) as turn, pytest.raises(TurnError, match="longer than"):
        turn.progress()


def test_what_a_visitor_stops_is_what_this_visit_has_begun() -> None:
    stops = Stops(most=2)
    before = time.monotonic()
    stops.check("a", before)
    stops.ask("a")
    with pytest.raises(StoppedError):
        stops.check("a", before)
    time.sleep(0.01)
    stops.check("a", time.monotonic())  # begun since
    stops.check("b", before)
    stops.ask("")
    stops.check("", before)  # nobody's, who are many
    stops.ask("b")
    stops.check("a", before)  # forgotten: they are bounded


@pytest.mark.parametrize(("seconds", "ends"), [(0.5, None), (2.5, None), (3.2, 4), (6.0, 2), (60.0, 1)])
def test_what_cannot_be_finished_ends_at_once(
    seconds: float, ends: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own 100 batches, neither by what came before them nor by what another computed meanwhile."""
    now = 0.0
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: now))
    processor = Turns()
    reached, said = 0, ""
    with processor.turn(slow=True) as turn:
        now += 20.0  # reading the weights
        try:
            for batch in range(100):
                reached = batch
                turn.progress(16 * batch, 1600)
                processor._release(turn)
                now += 40.0
                processor._acquire(turn)
                now += seconds
        except TurnError as error:
            said = str(error)
    minutes = round((20 + 100 * seconds) / 60)
    early = f"would take about {minutes} minutes here, and 3 are allowed: choose a quick method"
    assert ("longer than 180 seconds" if seconds == 2.5 else early if ends else "") in said
    assert bool(said) == (seconds > 2)
    assert reached == (ends or min(99, int(160 / seconds) + 1))
    with processor.turn(slow=True) as turn:  # without what is done, nothing can be told
        for _ in range(5):
            turn.progress()
            now += 30.0


def test_a_slow_method_ends_when_its_visitor_stops_it(
    photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "visitor", lambda: Visitor("1.1.1.1", "a"))
    passes = []

    def bar(done: tuple[int, int], desc: str | None) -> None:
        passes.append(done)
        score.on_stop()

    with pytest.raises(StoppedError):
        explain(photograph, method="occlusion", progress=score._told(bar))  # type: ignore[arg-type]
    assert len(passes) == 1
    score._told(lambda *_, **__: None)(1, 2)  # type: ignore[arg-type]  # what begins later goes on


def test_one_who_leaves_while_giving_way_ends_no_turn_but_its_own(
    as_visitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MIN_RUN", 0.0)
    processor = Turns()
    gone, begun, done, finished = (threading.Event() for _ in range(4))

    def quick() -> None:
        as_visitor("2")
        with processor.turn() as turn:
            begun.set()
            done.wait(20)
            at_work.append(processor._at_work is turn)
            finished.set()

    at_work: list[bool] = []
    as_visitor("1", gone=gone.is_set)
    threading.Thread(target=lambda: (begun.wait(20), gone.set())).start()

    def slow() -> None:
        with processor.turn(slow=True) as turn:
            start(quick)
            while not begun.wait(0.01):
                turn.progress()  # gives way, and waits for the next turn

    with pytest.raises(GoneError):
        slow()
    done.set()
    assert finished.wait(20)
    assert at_work == [True]


def test_a_picture_is_not_looked_at_for_one_who_has_gone(
    as_visitor: Any, photograph: Image.Image, tmp_path: Path
) -> None:
    photograph.save(tmp_path / "photo.png")
    passes = []

    def gone() -> bool:
        passes.append(1)
        return len(passes) > 2

    as_visitor("1.1.1.1", "a", gone)
    begun = time.monotonic()
    with pytest.raises(GoneError):
        gpu.explain_image(
            tmp_path / "photo.png", catalog.list_heads()[0], gpu.Choices("occlusion"), public=True
        )
    assert time.monotonic() - begun < 10
    with gpu.turns.turn():  # it is free again
        pass


def test_whoever_waits_one_thread_computes_what_is_quick(as_visitor: Any) -> None:
    processor, threads, word = Turns(), set(), ContextVar("word", default="")
    seen = []

    def visit() -> None:
        as_visitor("1.1.1.1", "a")
        word.set(threading.current_thread().name)

        def compute() -> None:
            threads.add(threading.get_ident())
            seen.append(word.get())

        for _ in range(3):
            with processor.admitted() as turn:
                turn.run(compute)

    visitors = start(*[visit] * 20)
    for thread in visitors:
        thread.join(10)
    assert len(threads) == 1
    assert sorted(seen) == sorted(
        thread.name for thread in visitors * 3
    )  # what Gradio knows of the request, too

    def fail() -> None:
        raise Stop

    with processor.admitted() as turn, pytest.raises(Stop):
        turn.run(fail)


def test_a_quick_one_computes_while_a_slow_one_gives_way(
    as_visitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MIN_RUN", 0.0)
    processor, done = Turns(), []
    begun = threading.Event()

    def slow() -> None:
        with processor.admitted(slow=True) as turn:

            def compute() -> None:
                begun.set()
                while not done:
                    time.sleep(0.01)
                    turn.progress()

            turn.run(compute)

    def quick() -> None:
        begun.wait(10)
        with processor.admitted() as turn:
            turn.run(lambda: done.append("quick"))

    for thread in start(slow, quick):
        thread.join(10)
    assert done == ["quick"]


def test_a_visitor_is_gone_when_nobody_has_listened_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = Listeners()
    monkeypatch.setattr(visitors, "listeners", listeners)
    monkeypatch.setattr(visitors, "GRACE", 0.05)
    who = Visitor("1.1.1.1", "session", "event")
    time.sleep(0.1)
    assert not who.gone()  # nothing tells of streams
    listeners.watching = True
    with listeners.listening("session"):
        time.sleep(0.1)
        assert not who.gone()
    time.sleep(0.1)
    assert who.gone()
    assert not Visitor().gone()


def test_nobody_is_believed_to_be_a_proxy_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "AIS_TRUST_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for host in ("10.0.0.7", "127.0.0.1"):
        assert address(host, {"x-forwarded-for": "93.184.216.34"}) == host
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert address("10.0.0.7", {"x-forwarded-for": "93.184.216.34"}) == "93.184.216.34"


def test_an_address_is_that_of_the_visitor_not_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_TRUST_PROXY", "1")
    forwarded = {"x-forwarded-for": "1.2.3.4, 93.184.216.34"}
    assert address("93.184.216.34", {}) == "93.184.216.34"
    assert address("93.184.216.34", {"x-forwarded-for": "1.2.3.4"}) == "93.184.216.34"
    assert address("10.0.0.7", forwarded) == "93.184.216.34"
    assert address("127.0.0.1", {}) == "127.0.0.1"
    assert address("2a00:1450:4001:81b::1", {}) == address("2a00:1450:4001:81b:5::9", {})
    assert address("testclient", forwarded) == "testclient"
    assert address("10.0.0.7", {"x-forwarded-for": "nonsense"}) == "10.0.0.7"


# What is kept -----------------------------------------------------------------------------------------------


def fill(folder: Path, size: int, age: float) -> Path:
    folder.mkdir()
    (folder / "file").write_bytes(bytes(size))
    then = time.time() - age
    os.utime(folder / "file", (then, then))
    os.utime(folder, (then, then))
    return folder


def test_the_oldest_is_removed_and_nothing_that_is_in_use(uploads: Path) -> None:
    old, used, middle, new = (
        fill(uploads / n, 1000, age) for n, age in zip("abcd", (90, 80, 70, 1), strict=True)
    )
    with storage.using(used / "file", None, uploads.parent / "elsewhere"):
        assert storage._used[used.resolve()] == 1
        storage.remove_oldest(uploads, 2500, {used})
    assert [folder.is_dir() for folder in (old, used, middle, new)] == [False, True, False, True]
    storage.remove_oldest(uploads, 0, set(), younger=30)
    assert [folder.is_dir() for folder in (used, new)] == [False, True]
    storage.remove_oldest(uploads / "nothing", 0, set())


def test_results_and_uploads_have_each_their_bound(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [fill(uploads / f"ais-{n}", 1000, 100 - n) for n in range(5)]
    files = [fill(uploads / f"{n:064x}", 1000, 100 - n) for n in range(5)]
    monkeypatch.setattr(storage, "RESULTS", 1500)
    monkeypatch.setattr(storage, "UPLOADS", 3500)
    storage._tidy()
    assert [folder.is_dir() for folder in results] == [False] * 4 + [True]
    assert [folder.is_dir() for folder in files] == [False] * 2 + [True] * 3
    monkeypatch.setattr(storage, "MOST", 0)
    storage._tidy()
    assert not list(uploads.iterdir())


def test_one_who_uploads_much_takes_nothing_from_others(
    uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(number: int, size: int, age: float, who: str) -> Path:
        made = fill(uploads / f"{number:064x}", size, age)
        storage.belongs(made / "file", who)
        return made

    theirs = [upload(1, 800, 200, "1.1.1.1"), upload(2, 800, 190, "2.2.2.2")]
    much = [upload(10 + n, 1000, 100 - n, "6.6.6.6") for n in range(12)]
    monkeypatch.setattr(storage, "OF_ADDRESS", 3000)
    storage._tidy()
    assert [folder.is_dir() for folder in much] == [False] * 8 + [True] * 4  # the newest beside the others
    monkeypatch.setattr(storage, "MOST", 2700)
    storage._tidy()
    assert all(folder.is_dir() for folder in theirs)
    assert [folder.is_dir() for folder in much[-2:]] == [False, True]
    assert much[0].resolve() not in storage._owners


def test_an_upload_is_a_file_in_the_folder_of_one(uploads: Path, tmp_path: Path) -> None:
    good = fill(uploads / ("a" * 64), 10, 0) / "file"
    assert storage.upload(str(good)) == good.resolve()
    (tmp_path / "secret").write_text("x")
    (good.parent / "link").symlink_to(tmp_path / "secret")
    (good.parent / "round").symlink_to(good.parent / "round")
    result = fill(uploads / f"ais-{'a' * 32}", 10, 0) / "file"
    wrong = [good.parent, good.parent / "link", good.parent / "round", good.parent / "none", result, uploads]
    wrong += [
        tmp_path / "secret",
        f"{good.parent}/../../secret",
        "file",
        f"{good}\0",
        "x" * 5000,
        f"file://{good}",
    ]
    for path in [*map(str, wrong), None, 5, {}, [str(good)]]:
        assert storage.upload(path) is None


def test_a_forgotten_session_leaves_nothing(uploads: Path) -> None:
    session = Session()
    folders = [session.new_folder() for _ in range(sessions.FOLDERS + 2)]
    assert [folder.is_dir() for folder in folders] == [False] * 2 + [True] * sessions.FOLDERS
    del session
    gc.collect()
    assert not list(uploads.iterdir())


def test_gradio_forgets_the_oldest_session_and_its_folder(uploads: Path) -> None:
    import gradio as gr
    from gradio.state_holder import StateHolder

    with gr.Blocks() as demo:
        state = gr.State(None)
    holder = StateHolder()
    holder.set_blocks(demo)
    holder.capacity = 2
    folders = []
    for name in "abc":
        session = Session()
        folders.append(session.new_folder())
        holder[name][state._id] = session
        del session
    holder["d"]
    gc.collect()
    assert [folder.is_dir() for folder in folders] == [False, False, True]


def test_explanations_in_memory_have_a_bound_and_no_pictures(photograph: Image.Image, uploads: Path) -> None:
    explanation = explain(photograph)
    session = Session()
    session.keep(explanation)
    assert session.explanation is not None
    assert session.explanation.to_dict() == explanation.to_dict()
    assert (
        session.explanation.contributions(200, 150)[0].index == explanation.contributions(200, 150)[0].index
    )
    size = sessions._bytes(session.explanation)
    assert size < 2 * explanation.maps.nbytes
    shelf = Shelf(limit=2 * size)
    people = [Session(explanation=replace(session.explanation)) for _ in range(4)]
    for one in people:
        shelf.put(one)
    assert [one.explanation is not None for one in people] == [False, False, True, True]
    shelf.put(people[2])
    shelf.put(Session(explanation=session.explanation))
    assert [one.explanation is not None for one in people] == [False, False, True, False]


def test_no_sentence_names_a_place_of_the_server(
    uploads: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = [uploads, Path(tempfile.gettempdir()), Path.home(), Path(catalog.__file__).parent, Path.cwd()]
    for place in places:
        for kind in (AISError, HeadError, HubError):
            said = error_message(kind(f"The file {place / 'x' / 'model.bin'}, of this, is damaged."))
            assert said == AILING
    assert str(uploads) in caplog.text  # its owner reads it
    assert (
        error_message(AISError(f"Nothing was written to {uploads}/x: {os.strerror(errno.ENOSPC)}.")) == FULL
    )
    assert error_message(OSError(errno.ENOSPC, "No space left on device", str(uploads))) == FULL
    (tmp_path / "file").write_text("")
    with pytest.raises(AISError) as raised:
        write_atomically(tmp_path / "file", {"x": b""})
    assert str(tmp_path) not in error_message(raised.value)
    for plain in (
        "There is no head '/etc'. Choose one of: a.",
        "Choose user/repo@main of https://hf.co/tmp.",
    ):
        assert error_message(AISError(plain)) == plain
    with caplog.at_level(logging.CRITICAL):
        assert error_message(KeyError("x")) == BROKEN


def test_a_matrix_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    pictures = [(tmp_path / name, name) for name in ("a.png", "b.png", "c.png")]

    def refused(file: str) -> str:
        begun = time.monotonic()
        with pytest.raises(DataError) as raised:
            similarity.uploaded_stimuli(pictures, (tmp_path / file, "my matrix"))
        assert time.monotonic() - begun < 5
        return str(raised.value)

    (tmp_path / "large.csv").write_bytes(b"0,0,0\n" * (similarity.LARGEST_MATRIX // 6 + 1))
    assert "larger than 2 MB" in refused("large.csv")
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"<c/>" * (similarity.LARGEST_UNFOLDED // 4 + 1))
    assert refused("bomb.xlsx").startswith("my matrix unfolds to more than 8 MB")
    (tmp_path / "many.csv").write_bytes(b"0,0,0\n" * (similarity.NUMBERS // 3 + 1))
    assert "more than 360,000 cells" in refused("many.csv")
    savemat(tmp_path / "many.mat", {"rdm": np.zeros((700, 700))}, do_compression=True)
    assert "more than 360,000 are not read" in refused("many.mat")


def test_a_matrix_is_read_in_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = []
    monkeypatch.setattr(similarity, "read_human_rdms", lambda *_, **__: at_work.append(gpu.turns._at_work))
    (tmp_path / "m.csv").write_text("0")
    similarity.uploaded_stimuli([(tmp_path / n, n) for n in "abc"], (tmp_path / "m.csv", "m.csv"))
    assert at_work[0] is not None


# What is fetched --------------------------------------------------------------------------------------------


def test_a_visitor_brings_no_backbone_that_the_owner_has_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "is_here", lambda name: name == "efficientnet_lite0")
    here, away = make_head("efficientnet_lite0"), make_head("resnet152")
    check_backbones(here, public=True)
    check_backbones(away, public=False)
    with pytest.raises(HeadError, match=r"resnet152.*AIS_ALLOW_BACKBONES=resnet152\.$"):
        check_backbones(away, public=True)
    for value, allowed in (("vgg16, resnet152", True), ("*", True), ("vgg16", False), ("", False)):
        monkeypatch.setenv("AIS_ALLOW_BACKBONES", value)
        if allowed:
            check_backbones(away, public=True)
        else:
            with pytest.raises(HeadError):
                check_backbones(away, public=True)


def test_what_comes_with_a_package_is_here() -> None:
    assert catalog.is_here("efficientnet_lite0")


def test_heads_are_fetched_so_often_for_one_address() -> None:
    fetches = Fetches(most=2, within=0.1)
    for who in ("a", "b", "a"):
        fetches.check(who)
    with pytest.raises(HubError, match="the most there may be"):
        fetches.check("a")
    fetches.check("b")
    time.sleep(0.15)
    fetches.check("a")


def test_few_wait_for_the_hub_and_few_from_one_address() -> None:
    places = Places(most=3, of_address=2)
    with ExitStack() as waiting:
        for _ in range(2):
            waiting.enter_context(places.place("a"))
        with pytest.raises(HubError, match="2 heads are being fetched for your address"), places.place("a"):
            pass
        waiting.enter_context(places.place("b"))
        with pytest.raises(HubError, match="Many heads are being fetched"), places.place("c"):
            pass
    with places.place("a"):
        pass
    assert not places._taken


def test_a_head_that_failed_is_tried_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(asked: str, *, public: bool) -> Any:
        tried.append(asked)
        raise HubError("It is away.")

    monkeypatch.setattr(catalog, "fetch", fail)
    offered = Catalog("user/away,user/gone")
    offered.start()

    def settled() -> Iterator[bool]:
        for _ in range(200):
            yield all(offer.reason or offer.head for offer in offered.entries())
            time.sleep(0.01)

    assert any(settled())
    for _ in range(100):
        offered.retry("user/away")
    assert any(settled())
    assert sorted(tried) == ["user/away", "user/away", "user/gone"]
    offered.retry("user/gone")  # the pause is each head's own
    assert any(settled())
    assert tried.count("user/gone") == 2
    monkeypatch.setattr(catalog, "RETRY", 0.0)
    offered.retry("user/away")
    assert any(settled())
    assert tried.count("user/away") == 3
