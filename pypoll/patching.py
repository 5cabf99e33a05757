"""`install`, which replaces ``select.poll`` for the whole process."""

from __future__ import annotations

import select
import selectors
from types import BuiltinFunctionType

from pypoll.events import CONSTANTS
from pypoll.poller import Poll


def install() -> None:
    """Replace ``select.poll`` with that of pypoll for the whole process.

    Use it for a program that you did not write, and call it before the program starts. From then
    on ``select.poll()`` returns a `Poll`, and ``selectors.PollSelector`` waits in one. So do
    subprocess, multiprocessing and socketserver, even if they are imported already. On PyPy, no
    library's poll() spins for timeouts below a millisecond or ends early after a signal. POLL*
    constants that the interpreter's select module lacks are added.

    It does not affect existing objects, or modules that have already run ``from select import
    poll``. Nor does it affect asyncio, whose default selector is epoll or kqueue: pass a
    `PollSelector` to its loop.

    You may call it from any thread and more than once. Importing pypoll never calls it.

    Raises RuntimeError if ``select.poll`` is neither the interpreter's nor pypoll's. gevent and
    eventlet replace or remove it. A wait in a `Poll` would block all greenlets of the thread.
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
