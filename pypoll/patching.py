"""`install`: pypoll in the place of ``select.poll`` for a whole process."""

from __future__ import annotations

import select
import selectors
from types import BuiltinFunctionType

from pypoll.events import CONSTANTS
from pypoll.poller import Poll


def install() -> None:
    """Make ``select.poll`` that of pypoll for the whole process.

    For a program that you did not write: call this before it starts. From then on ``select.poll()``
    returns a `Poll`, and ``selectors.PollSelector`` waits in one. So do subprocess, multiprocessing
    and socketserver, even if they are imported already. On PyPy, this gives every library a poll()
    that does not spin for timeouts below a millisecond, and that a signal does not end. POLL*
    constants that the interpreter's select module lacks are added.

    It does not reach modules that said ``from select import poll`` before, objects that exist
    already, and asyncio, whose default selector is another one: pass a `PollSelector` to its loop.

    You may call it from any thread and more than once. Importing pypoll never calls it.

    Raises RuntimeError if ``select.poll`` is neither the interpreter's nor pypoll's. gevent and
    eventlet put one of their own there, or none, and a wait in a `Poll` would block all of their
    greenlets.
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
