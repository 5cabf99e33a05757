"""poll() for Python: a drop-in replacement for ``select.poll``."""

if __name__ != "pypoll":
    raise ImportError(
        f"pypoll was imported as {__name__}, but its modules can only be imported as pypoll: "
        "install it with pip, or put the directory that contains it on sys.path"
    )

from pypoll.events import *  # noqa: F403 - the names depend on the system
from pypoll.events import CONSTANTS as _CONSTANTS
from pypoll.events import PollEvent
from pypoll.library import __version__
from pypoll.patching import install
from pypoll.poller import Poll, poll, poll_fd
from pypoll.selector import EVENT_HANGUP, EVENT_READ, EVENT_URGENT, EVENT_WRITE, PollSelector

# As in the select module.
error = OSError

__all__ = [
    "EVENT_HANGUP",
    "EVENT_READ",
    "EVENT_URGENT",
    "EVENT_WRITE",
    "Poll",
    "PollEvent",
    "PollSelector",
    "__version__",
    "install",
    "poll",
    "poll_fd",
]
__all__ += list(_CONSTANTS)


TYPE_CHECKING = False
if not TYPE_CHECKING:

    def __getattr__(name):
        """Import pypoll.select and pypoll.types on first use: few programs need them."""
        if name not in {"select", "types"}:
            raise AttributeError(f"module 'pypoll' has no attribute {name!r}")
        from importlib import import_module

        return import_module(f"pypoll.{name}")
