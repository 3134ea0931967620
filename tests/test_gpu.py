"""The page where a GPU is lent for a call alone (ZeroGPU): a stand-in of the package `spaces` holds it to the rules."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ais import explain
from ais.demo import gpu
from ais.errors import HeadError
from ais.heads.config import EMBEDDED
from helpers.heads import make_head

ROOT = Path(__file__).parent.parent

# What the real package does: it comes before CUDA is touched, decorates functions of modules, and runs them in a
# process forked at the call, from which only what can be pickled comes back, and of an exception only its class.
SPACES = """
import multiprocessing, pickle, sys
came_first = not {"torch", "gradio", "ais"} & set(sys.modules)
calls = []
def GPU(task=None, *, duration=None):
    if task is None:
        return lambda task: GPU(task, duration=duration)
    assert "<locals>" not in task.__qualname__
    def lent(*args):
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        def run():
            try:
                theirs.send_bytes(pickle.dumps(task(*pickle.loads(pickle.dumps(args)))))
            except Exception as error:
                theirs.send_bytes(pickle.dumps(RuntimeError(type(error).__name__)))
        worker = multiprocessing.get_context("fork").Process(target=run)
        worker.start()
        result = pickle.loads(ours.recv_bytes())
        worker.join()
        calls.append((args, duration, worker.pid))
        if isinstance(result, RuntimeError):
            raise result
        return result
    return lent
"""

VISIT = """
import json, os, sys
import app, spaces
from pathlib import Path
from ais import demo
from ais.demo.session import Session
from ais.demo.tabs.score import show
from ais.heads.config import EMBEDDED
from ais.backbones.loading import _backbone
demo.warm()
ready = _backbone.cache_info().currsize  # before any thread or worker
def visit(picture):
    session = Session(image=Path(picture), name="x.png")
    overlay, score, _, about, _ = show(session, {"head": EMBEDDED, "method": "gradcam"})
    return {"error": (overlay or {}).get("error"), "score": score and score.get("score"),
            "quantiles": score and len(score.get("quantiles", ())),
            "maps": session.explanation and list(session.explanation.maps.shape)}
answers = [visit(sys.argv[1]), visit(sys.argv[2])]
print(json.dumps({"first": spaces.came_first, "ready": ready, "answers": answers,
                  "calls": [[list(args), duration, pid != os.getpid()] for args, duration, pid in spaces.calls]}))
"""


def test_the_rules_of_zerogpu_are_kept(tmp_path: Path, photograph: Image.Image) -> None:
    (tmp_path / "spaces.py").write_text(SPACES)
    photograph.save(tmp_path / "photo.png")
    (tmp_path / "notes.png").write_text("no picture")
    done = subprocess.run(
        [sys.executable, "-c", VISIT, str(tmp_path / "photo.png"), str(tmp_path / "notes.png")],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "SPACES_ZERO_GPU": "true",
            "OMP_NUM_THREADS": "1",  # OpenMP's threads do not survive the fork
            "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["first"], "spaces must be imported before torch and gradio"
    assert said["ready"] == 1, "the default backbone must be there before the first call"
    good, bad = said["answers"]
    expected = explain(photograph, method="gradcam")
    assert good["score"] == pytest.approx(expected.score, abs=1e-5)
    assert good["maps"] == list(expected.maps.shape)
    assert good["quantiles"] == 101
    assert "is not a picture" in bad["error"]
    for arguments, duration, elsewhere in said["calls"]:
        assert all(isinstance(argument, (str, bool)) for argument in arguments)
        assert 0 < duration <= 60
        assert elsewhere


@pytest.mark.parametrize("head", [EMBEDDED, "beauty-stack"])
def test_an_explanation_comes_back_from_another_process_as_it_was(photograph: Image.Image, head: str) -> None:
    explanation = explain(photograph, head)
    back = pickle.loads(pickle.dumps(explanation))
    assert back.to_dict() == explanation.to_dict()
    np.testing.assert_array_equal(back.heatmap, explanation.heatmap)
    assert back.image.tobytes() == explanation.image.tobytes()


def test_what_the_space_says_of_its_gpu_is_shown() -> None:
    import gradio as gr

    from ais.demo.session import error_message

    assert error_message(gr.Error("You have no GPU quota left.")) == "You have no GPU quota left."


def test_without_spaces_the_function_is_itself() -> None:
    def function() -> None: ...

    if "spaces" in sys.modules:
        pytest.skip("spaces is installed here")
    assert gpu._on_gpu(function) is function


def test_a_head_whose_scores_overflow_gives_a_sentence(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph.save(tmp_path / "photo.png")
    head = make_head("efficientnet_lite0", "conv_head", dim=1280, channels=1280, view="resize")
    head.weight2.mul_(1e38)
    monkeypatch.setattr(gpu, "load_head_cached", lambda *_, **__: head)
    with pytest.raises(HeadError, match="no finite score"):
        gpu.explain_image(tmp_path / "photo.png", EMBEDDED, gpu.Choices("ais"), public=False)
