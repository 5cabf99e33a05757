"""How subjects are timed, and how their times are compared.

The method is that of pyperf (calibrated loops, a warm-up and several processes), with two
differences. Subjects take turns of 2 ms, and a ratio compares two turns of the same round, so that
other work on the machine affects both. The clock is the processor time of the thread, which does
not count while other threads run; nothing that is measured here waits.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from textwrap import indent
from time import thread_time
from typing import Any, Callable

# A function that does its work the given number of times, and returns the seconds that this took.
Timed = Callable[[int], float]
Times = dict[str, list[float]]  # seconds per call, one for each round
Figures = dict[str, float]

_TURN_SECONDS = 0.002
_FEWEST_ROUNDS = 3

# Each subject is compiled separately, so that subjects do not share PyPy's traces and CPython's
# inline caches. Results are dropped, as by timeit, so PyPy may not create the list for one ready
# descriptor, which changes the ratio by 0.03. The loop itself takes 4 ns per call on CPython and
# less than 1 ns on PyPy, which is not subtracted.
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
    """Return a loop that repeats a statement, in which the names are local variables.

    The target is assigned the items of *each* in turn. The next call continues with the next item.
    """
    bound = {**names, "_each": each, "_clock": thread_time, "_islice": islice, "_repeat": repeat}
    source = _LOOP.format(
        names=", ".join(f"{name}={name}" for name in bound),
        items="_repeat(None, number)" if each is None else "_islice(_each, number)",
        target=target,
        body=indent(statement, " " * 8),
    )
    exec(compile(source, "<loop>", "exec"), bound)
    timed: Timed = bound["timed"]  # type: ignore[assignment] # exec() defined it
    return timed


def _calls_in_a_turn(subject: Timed, warm_up: float) -> int:
    """Warm up the subject, and return how many of its calls take one turn."""
    warm = thread_time() + warm_up
    number = 1
    while True:
        seconds = subject(number)
        if seconds < _TURN_SECONDS:
            number *= 2
        elif thread_time() >= warm:
            return max(1, round(number * _TURN_SECONDS / seconds))


def take_turns(subjects: dict[str, Timed], seconds: float, warm_up: float) -> Times:
    """Time the subjects in turns, in random order in each round, until the seconds have passed."""
    numbers = {name: _calls_in_a_turn(subject, warm_up) for name, subject in subjects.items()}
    times: Times = {name: [] for name in subjects}
    order = list(subjects)
    end = thread_time() + seconds
    rounds = 0
    while rounds < _FEWEST_ROUNDS or thread_time() < end:
        random.shuffle(order)
        for name in order:
            times[name].append(subjects[name](numbers[name]) / numbers[name])
        rounds += 1
    return times


def figures(values: Sequence[float]) -> Figures:
    """Return the median, the quartiles and the minimum of the values."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": round(median, 4),
        "lower quartile": round(lower, 4),
        "upper quartile": round(upper, 4),
        "minimum": round(min(values), 4),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figures:
    """Return the ratios of two subjects in all rounds, and the ratio of their best times."""
    paired = figures([one / other for one, other in zip(ours, theirs)])
    paired["of the minima"] = round(min(ours) / min(theirs), 4)
    del paired["minimum"]
    return paired
