"""The interpreter's select module, with pypoll's ``poll`` and constants in it.

A program that imports select needs one line changed: ``from pypoll import select``. Whatever else
it uses of that module, such as ``select.error``, ``select.select`` or ``select.epoll``, is there
too.
"""

from select import *  # noqa: F403 - what there is depends on the system

from pypoll.events import *  # noqa: F403
from pypoll.poller import poll as poll
