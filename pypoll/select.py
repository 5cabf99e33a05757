"""The interpreter's select module, with pypoll's ``poll`` and constants in it.

A program that imports select changes one line: ``from pypoll import select``. Everything else of
that module, such as ``select.error``, ``select.select`` and ``select.epoll``, is here too.
"""

from select import *  # noqa: F403 - the names depend on the system

from pypoll.events import *  # noqa: F403
from pypoll.poller import poll as poll
