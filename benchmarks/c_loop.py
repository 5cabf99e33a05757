"""The bare loop over poll(2) of c_loop.c: the limit of what a poll object can reach."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from time import thread_time
from typing import Any

from cffi import FFI
from measuring import Timed

_DECLARATIONS = """
typedef struct { ...; } c_loop;
c_loop *c_loop_new(const int *fds, const short *masks, int count);
void c_loop_free(c_loop *loop);
int c_loop_run(c_loop *loop, int changed, int timeout, long times);
"""

_compiled: Any = None


def compile_to(directory: str) -> str:
    """Compile the loop, and return the path of the module."""
    builder = FFI()
    builder.cdef(_DECLARATIONS)
    source = Path(__file__).with_suffix(".c").read_text("utf-8")
    builder.set_source("_c_loop", source, extra_compile_args=["-O2"])
    return str(builder.compile(tmpdir=directory))


def load(path: str) -> None:
    """Load the module that compile_to() made, in each process that measures."""
    global _compiled
    spec = importlib.util.spec_from_file_location("_c_loop", path)
    assert spec is not None
    assert spec.loader is not None
    _compiled = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_compiled)


def c_loop(masks: dict[int, int], ready: int, changed: int = 0, timeout: int = 0) -> Timed:
    """Return the loop over these descriptors, so many of which are ready."""
    ffi, lib = _compiled.ffi, _compiled.lib
    loop = ffi.gc(lib.c_loop_new(list(masks), list(masks.values()), len(masks)), lib.c_loop_free)
    run = lib.c_loop_run

    def timed(number: int) -> float:
        begun = thread_time()
        found = run(loop, changed, timeout, number)
        seconds = thread_time() - begun
        if found != ready:
            raise RuntimeError(f"the C loop found {found} ready and not {ready}")
        return seconds

    return timed
