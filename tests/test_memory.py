"""If memory runs out, a call raises MemoryError and changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import PYPY, ran

pytestmark = pytest.mark.native


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.skipif(PYPY, reason="PyPy aborts if its collector gets no memory")
def test_a_call_for_which_c_has_no_memory_raises_and_changes_nothing(tmp_path: Path) -> None:
    # The C library takes large blocks from the system, and gives them back, immediately.
    env = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    # Free-threaded interpreters would reserve a gigabyte.
    env["MIMALLOC_ARENA_RESERVE"] = "0"
    assert ran("refused_memory", tmp_path, env=env) == (0, "", "")


@pytest.mark.asynchronous
@pytest.mark.skipif(PYPY, reason="PyPy has no such allocator")
def test_a_call_for_which_python_has_no_memory_raises_and_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this interpreter comes without its own tests")
    assert ran("refused_allocations", tmp_path) == (0, "", "")
