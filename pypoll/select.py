"""The interpreter's select module, with pypoll's ``poll`` and constants.

To use it, replace ``import select`` with ``from pypoll import select``. Everything else in the
select module, such as ``select.error``, ``select.select`` and ``select.epoll``, is here too.
"""

from select import *  # noqa: F403 - the names depend on the system

from pypoll.events import *  # noqa: F403
from pypoll.poller import poll as poll
