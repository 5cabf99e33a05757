"""With many descriptors, sets, waits or changes, results are right and memory is given back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest

from support import PYPY, linux_only, ran

pytestmark = pytest.mark.native

Run = Callable[..., str]


@pytest.fixture
def run(long_profile: bool, tmp_path: Path) -> Run:
    """A function that runs a case, and skips the test where that may not do what it must."""

    def run(case: str, *arguments: object, under: tuple[str, ...] = ()) -> str:
        # The C library gives back what is freed, and at once, so that it can be counted. PyPy
        # would take half of the processor's cache, which may be 250 MB, before it collects.
        env = {
            "PYPY_GC_NURSERY": "4M",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "65536",
        }
        seconds, times = (1200, 50) if long_profile else (120, 1)
        arguments = (seconds, times, case, *arguments)
        status, output, errors = ran(
            "scale", tmp_path, *arguments, under=under, env=env, timeout=2 * seconds
        )
        if status == 77:
            pytest.skip(output)
        assert status == 0, errors
        return output

    return run


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_results_are_right_with_so_many_descriptors(run: Run, count: int) -> None:
    run("descriptors", count)


@linux_only
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("numbers 1000000", id="17 bytes a registered descriptor, given back"),
        pytest.param("polled 100000", id="40 bytes a polled descriptor"),
        pytest.param(
            "empty 100000",
            id="700 bytes a set",
            marks=pytest.mark.skipif(PYPY, reason="PyPy's collector takes megabytes at a time"),
        ),
    ],
)
def test_memory_is_bounded(run: Run, case: str) -> None:
    run(*case.split())


@linux_only
@pytest.mark.parametrize("count", [1, 20])
def test_dropped_objects_take_no_more_memory_than_those_of_select(run: Run, count: int) -> None:
    """Nor are they too many for a limit on the memory of the process."""
    ours, theirs = [int(run("dropped", count, kind)) for kind in ("pypoll", "select")]
    assert ours <= 2 * theirs


def test_a_fork_takes_at_most_twice_the_time_beside_5000_objects(run: Run) -> None:
    run("forks")


@linux_only
@pytest.mark.parametrize("case", ["polls", "sets"])
def test_neither_memory_nor_descriptors_grow(run: Run, case: str) -> None:
    run(case)


@linux_only
def test_the_kernel_is_given_as_many_entries_as_are_registered(
    run: Run, strace: list[str], long_profile: bool, tmp_path: Path
) -> None:
    """Ten million changes are an hour of a server that makes nearly 3,000 a second."""
    trace = tmp_path / "trace"
    under = (*strace, "-qq", "-o", str(trace))
    shown = run("changes", 10_000_000 if long_profile else 300_000, under=under)
    descriptors = [int(line) for line in shown.splitlines()]
    entries = [int(count) for count in re.findall(r"poll\(\[.*\], (\d+), ", trace.read_text())]
    assert entries == descriptors
    assert min(descriptors) < 400
    assert max(descriptors) > 5000
