"""With many descriptors, sets or waits, results are right and memory is given back."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from support import linux_only, ran

pytestmark = pytest.mark.native

Run = Callable[..., str]


@pytest.fixture
def run(long_profile: bool, tmp_path: Path) -> Run:
    """A function that runs a case, and skips the test if the system does not allow it."""

    def run(case: str, *arguments: object) -> str:
        # The C library returns freed memory immediately, so that the size of the process shows it.
        # PyPy would fill half of the processor's cache, up to 250 MB, before it collects.
        env = {
            "PYPY_GC_NURSERY": "4M",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "65536",
        }
        seconds, times = (1200, 50) if long_profile else (120, 1)
        status, output, errors = ran(
            "scale", tmp_path, seconds, times, case, *arguments, env=env, timeout=2 * seconds
        )
        if status == 77:
            pytest.skip(output)
        assert status == 0, errors
        return output

    return run


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_results_are_right_and_in_order_with_many_descriptors(run: Run, count: int) -> None:
    run("descriptors", count)


@linux_only
def test_a_large_set_takes_26_bytes_per_descriptor_and_gives_them_back(run: Run) -> None:
    run("large_set", 1_000_000)


@linux_only
@pytest.mark.parametrize("count", [1, 20])
def test_dropped_sets_take_at_most_twice_the_memory_of_those_of_select(
    run: Run, count: int
) -> None:
    ours, theirs = [int(run("dropped_sets", count, kind)) for kind in ("pypoll", "select")]
    assert ours <= 2 * theirs


@linux_only
def test_repeated_calls_take_no_more_memory_or_descriptors(run: Run) -> None:
    run("repeated")
