"""If memory is refused, a call raises MemoryError and changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import PYPY, ran

pytestmark = pytest.mark.native


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.skipif(PYPY, reason="PyPy aborts when its collector is refused memory")
@pytest.mark.parametrize("case", ["growing", "ready", "during a wait", "first wait", "new"])
def test_what_is_refused_changes_nothing(case: str, tmp_path: Path) -> None:
    # Free-threaded interpreters would reserve a gigabyte, and not be refused any memory.
    env = {"MIMALLOC_ARENA_RESERVE": "0"}
    assert ran("refused_memory", tmp_path, case.replace(" ", "_"), env=env) == (0, "", "")


@pytest.mark.asynchronous
@pytest.mark.skipif(PYPY, reason="PyPy has no such allocator")
def test_no_allocation_that_is_refused_changes_anything(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this interpreter comes without its own tests")
    assert ran("refused_allocations", tmp_path) == (0, "", "")
