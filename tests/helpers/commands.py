"""The command: one JSON document on stdout, the rest on stderr, sentences instead of tracebacks."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any, NamedTuple

import pytest

from ais import cli


class Printed(NamedTuple):
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)


def call(*arguments: object, status: int = 0) -> Printed:
    """The same command in this process, which takes no seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["ais", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert (stopped.value.code or 0) == status, err.getvalue()
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Printed(out.getvalue(), err.getvalue())
