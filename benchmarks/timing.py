"""How subjects are timed beside each other, and what is made of the times.

It is pyperf's method (loops calibrated to a turn, a warm-up, several processes) but for two things.
The subjects take turns of milliseconds, and a ratio is one of two turns in the same round: what
else the machine does, and the caches and clocks it changes, then befalls both. And the clock is the
processor time of the thread, which stops while others run; nothing that is measured here waits.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from textwrap import indent
from time import thread_time
from typing import Any, Callable

# Does its work so many times, and returns the seconds that this took.
Timed = Callable[[int], float]
Turns = dict[str, list[float]]  # seconds a call, round by round
Figures = dict[str, float]

_TURN_SECONDS = 0.002
_FEWEST_ROUNDS = 3

# Each subject has a compiled loop of its own, so that PyPy's traces and CPython's caches of one
# are not the other's. The result is dropped, as timeit does: PyPy may then spare itself the
# list for one ready descriptor, which is 0.03 of the ratio there. The loop by itself takes 4 ns a
# call on CPython and less than 1 ns on PyPy, which is not subtracted.
_LOOP = """\
def timed(number, {names}):
    items = {items}
    begun = _clock()
    for {target} in items:
{body}
    return _clock() - begun
"""


def loop(
    statement: str, names: dict[str, object], target: str = "_", each: Iterator[Any] | None = None
) -> Timed:
    """Return a loop over a statement, in which the names are local variables.

    The target takes the items of *each* one after the other, from one turn to the next.
    """
    bound = {**names, "_each": each, "_clock": thread_time, "_islice": islice, "_repeat": repeat}
    source = _LOOP.format(
        names=", ".join(f"{name}={name}" for name in bound),
        items="_repeat(None, number)" if each is None else "_islice(_each, number)",
        target=target,
        body=indent(statement, " " * 8),
    )
    exec(compile(source, "<loop>", "exec"), bound)
    timed: Timed = bound["timed"]  # type: ignore[assignment] # exec has put it there
    return timed


def _calls_in_a_turn(subject: Timed, warm_up: float) -> int:
    """Warm the subject up, and return how many of its calls make a turn."""
    warm = thread_time() + warm_up
    number = 1
    while True:
        seconds = subject(number)
        if seconds < _TURN_SECONDS:
            number *= 2
        elif thread_time() >= warm:
            return max(1, round(number * _TURN_SECONDS / seconds))


def take_turns(subjects: dict[str, Timed], seconds: float, warm_up: float) -> Turns:
    """Let the subjects take turns, in each round in another order, for so many seconds."""
    numbers = {name: _calls_in_a_turn(subject, warm_up) for name, subject in subjects.items()}
    turns: Turns = {name: [] for name in subjects}
    order = list(subjects)
    end = thread_time() + seconds
    rounds = 0
    while rounds < _FEWEST_ROUNDS or thread_time() < end:
        random.shuffle(order)
        for name in order:
            turns[name].append(subjects[name](numbers[name]) / numbers[name])
        rounds += 1
    return turns


def figures(values: Sequence[float]) -> Figures:
    """Return the median of the values, their quartiles and the least one."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": round(median, 4),
        "lower quartile": round(lower, 4),
        "upper quartile": round(upper, 4),
        "minimum": round(min(values), 4),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figures:
    """Return the ratio of two subjects: over the rounds, and of their best turns."""
    paired = figures([one / other for one, other in zip(ours, theirs)])
    paired["of the minima"] = round(min(ours) / min(theirs), 4)
    del paired["minimum"]
    return paired
