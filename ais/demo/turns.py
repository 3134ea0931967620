"""Whose turn it is to compute: one at a time, what is quick before what is slow, and no visitor before the others.

A slow computation gives way between its batches while a quick one waits, and ends when its visitor is gone or its time
is over. Visitors take turns; one who has too many waiting already is told so at once.

What is computed runs in few threads that stay, and not in the many that wait: torch keeps some megabytes for every
thread that has ever computed, and never gives them back.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from ais.demo.visitors import Visitor, visitor
from ais.errors import AISError

T = TypeVar("T")

TIME_LIMIT = 180.0  # seconds that a slow computation may take
TRIAL = 10.0  # seconds of its batches, from which the time for all of them is told,
CLEARLY = 1.5  # and so many times the limit is too much, since that is no more than a guess
WAIT_LIMIT = 300.0  # seconds that one waits for its turn
MIN_RUN, MAX_STALL = (
    1.0,
    5.0,
)  # seconds: a slow one that has waited so long goes on for at least so long, whoever waits


@dataclass(frozen=True)
class Limit:
    """How many may be at work or waiting, of all kinds and of the slow ones alone."""

    all: int
    slow: int


OF_SESSION, OF_ADDRESS, OF_EVERYBODY = Limit(6, 3), Limit(60, 6), Limit(90, 16)


class TurnError(AISError):
    """There is no turn: too many wait, or it took too long."""


class GoneError(AISError):
    """Nobody waits for the answer any more."""


class Turn:
    """One request's place among the others, and its time."""

    def __init__(self, turns: Turns, who: Visitor, slow: bool, order: int) -> None:
        self.visitor, self.slow, self.order = who, slow, order
        self._turns = turns
        self._spent = 0.0
        self._first: tuple[float, int] | None = (
            None  # the seconds spent, and what was done, at the first batch
        )
        self.began = self.since = time.monotonic()

    @contextmanager
    def go(self) -> Iterator[None]:
        """Compute: nobody else does meanwhile.

        Raises:
            TurnError, GoneError: the turn did not come in time, or nobody waits for it any more.
        """
        self._turns._acquire(self)
        try:
            yield
        finally:
            self._turns._release(self)

    def run(self, function: Callable[[], T]) -> T:
        """`go`, in a thread of those that compute; the function sees the same visitor as here.

        Raises:
            TurnError, GoneError: as `go`; and whatever the function raises.
        """
        with self.go():
            return self._turns._threads[self.slow].submit(copy_context().run, function).result()

    def progress(self, done: int = 0, total: int = 0) -> None:
        """Called between two batches, with what is done if that is known: to give way, or to end.

        Raises:
            TurnError, GoneError: it has taken too long, or clearly will; or nobody waits for it any more.
        """
        if self.visitor.gone():
            raise GoneError("Nobody waits for this answer any more.")
        spent = self._spent + time.monotonic() - self.began
        if spent > TIME_LIMIT:
            raise TurnError(
                f"This took longer than {TIME_LIMIT:.0f} seconds and was stopped. Choose the method AIS, which is "
                "quick, or a head with one network."
            )
        self._check_estimate(spent, done, total)
        if self.slow and time.monotonic() - self.began > MIN_RUN and self._turns.quick_waits():
            self._turns._release(self)
            self._turns._acquire(self)

    def _check_estimate(self, spent: float, done: int, total: int) -> None:
        """That nobody waits for what cannot be finished."""
        if self._first is None:  # what came before, such as reading the weights, is not done again
            self._first = spent, done
        start, before = self._first
        if done <= before or spent - start < TRIAL:
            return
        whole = start + (spent - start) * (total - before) / (done - before)
        if whole > CLEARLY * TIME_LIMIT:
            raise TurnError(
                f"With this head the method would take about {whole / 60:.0f} minutes here, and {TIME_LIMIT / 60:g} "
                "are allowed: choose a quick method, or a head with one network at its own size."
            )


class Turns:
    """The turns of one processor."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._admitted: list[Turn] = []
        self._waiting: list[Turn] = []
        self._at_work: Turn | None = None
        self._number = count(1)
        self._served: OrderedDict[str, int] = OrderedDict()  # by address, when they last had a turn
        # One is enough for the quick ones, and each slow one that gives way keeps its own.
        self._threads = [ThreadPoolExecutor(most, "ais-compute") for most in (1, OF_EVERYBODY.slow)]

    @contextmanager
    def admitted(self, *, slow: bool = False) -> Iterator[Turn]:
        """A place among those who wait; `Turn.go` is the turn itself.

        Raises:
            TurnError: too many are there already, of this visitor or of all.
        """
        turn = Turn(self, visitor(), slow, next(self._number))
        with self._changed:
            self._check(turn)
            self._admitted.append(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._admitted.remove(turn)

    @contextmanager
    def turn(self, *, slow: bool = False) -> Iterator[Turn]:
        """Wait for a turn, and have it."""
        with self.admitted(slow=slow) as turn, turn.go():
            yield turn

    def quick_waits(self) -> bool:
        """Whether one that is quick waits."""
        with self._changed:
            return any(not turn.slow for turn in self._waiting)

    def _check(self, turn: Turn) -> None:
        who = turn.visitor
        groups = [
            (OF_SESSION, lambda other: bool(who.session) and other.session == who.session, "You have"),
            (
                OF_ADDRESS,
                lambda other: bool(who.address) and other.address == who.address,
                "From your address",
            ),
            (OF_EVERYBODY, lambda other: True, "The page is busy:"),
        ]
        for most, belongs, begin in groups:
            here = [other for other in self._admitted if belongs(other.visitor)]
            slow = sum(other.slow for other in here)
            if len(here) >= most.all:
                raise TurnError(
                    f"{begin} {len(here)} requests are waiting already. Try again when they are answered."
                    if begin != "You have"
                    else f"You have {len(here)} requests waiting already. Wait until they are answered."
                )
            if turn.slow and slow >= most.slow:
                raise TurnError(
                    f"{begin} {slow} slow requests are waiting already. Try again later, or choose the method AIS, "
                    "which is quick."
                    if begin != "You have"
                    else f"You have {slow} slow requests waiting already. Wait until they are answered, or choose the "
                    "method AIS, which is quick."
                )

    def _acquire(self, turn: Turn) -> None:
        turn.since = time.monotonic()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._at_work or self._next() is not turn:
                    self._changed.wait(0.5)
                    if turn.visitor.gone():
                        raise GoneError("Nobody waits for this answer any more.")
                    if time.monotonic() - turn.since > WAIT_LIMIT:
                        raise TurnError(
                            "The page is busy, and this did not get its turn. Try again in some minutes."
                        )
                self._at_work = turn
                turn.began = time.monotonic()
                self._served[turn.visitor.address] = next(self._number)
                self._served.move_to_end(turn.visitor.address)
                while len(self._served) > 1000:
                    self._served.popitem(last=False)
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _release(self, turn: Turn) -> None:
        with self._changed:
            if self._at_work is not turn:  # it gave way, and did not get its turn again
                return
            turn._spent += time.monotonic() - turn.began
            self._at_work = None
            self._changed.notify_all()

    def _next(self) -> Turn:
        now = time.monotonic()

        def place(turn: Turn) -> tuple[bool, int, int]:
            late = turn.slow and now - turn.since < MAX_STALL
            return late, self._served.get(turn.visitor.address, 0), turn.order

        return min(self._waiting, key=place)
