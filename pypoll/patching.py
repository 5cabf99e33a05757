"""`install`, which replaces ``select.poll`` for the whole process."""

from __future__ import annotations

import select
import selectors
from types import BuiltinFunctionType

from pypoll.events import CONSTANTS
from pypoll.poller import Poll


def install() -> None:
    """Replace ``select.poll`` with pypoll's for the whole process.

    Use this for a program that you did not write, and call it before the program starts. Afterwards
    ``select.poll()`` returns a `Poll`, and ``selectors.PollSelector`` uses one. So do subprocess,
    multiprocessing and socketserver, even if they are already imported. On PyPy, this also mends
    poll() in libraries: it no longer spins for timeouts below a millisecond, or returns early after
    a signal. POLL* constants that the interpreter's select module lacks are added to it.

    Existing objects, and modules that have already run ``from select import poll``, do not change.
    Neither does asyncio, whose default selector is epoll or kqueue: pass a `PollSelector` to its
    loop.

    You can call this from any thread and more than once. Importing pypoll does not call it.

    Raises RuntimeError if ``select.poll`` is neither the interpreter's nor pypoll's. gevent and
    eventlet replace or remove it, because a wait in a `Poll` blocks all greenlets of the thread.
    """
    found = getattr(select, "poll", None)
    if found is not Poll and not isinstance(found, BuiltinFunctionType):
        raise RuntimeError(
            f"select.poll is {found!r}: another library has replaced it, which pypoll must not undo"
        )
    for name, value in CONSTANTS.items():
        setattr(select, name, value)
    select.poll = Poll  # type: ignore[assignment,misc]
    selectors.PollSelector._selector_cls = Poll  # type: ignore[attr-defined]
