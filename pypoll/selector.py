"""`PollSelector`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from errno import EAGAIN, ENOMEM, ENOSPC
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey

import pypoll
from pypoll.descriptors import MAX_DESCRIPTOR, descriptor
from pypoll.events import CONSTANTS
from pypoll.integers import index
from pypoll.library import lib
from pypoll.messages import shown
from pypoll.poller import Poll
from pypoll.timeouts import NEGATIVE, NO_LIMIT, PER_SECOND, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    import pypoll.types
    from pypoll.types import Any

__all__ = ["EVENT_HANGUP", "EVENT_READ", "EVENT_URGENT", "EVENT_WRITE", "PollSelector"]

EVENT_URGENT = 4
EVENT_HANGUP = 8

_PYPY = sys.implementation.name == "pypy"

# What the C code returns if the set has no room.
_TOO_SMALL = -ENOSPC, -ENOMEM

# A literal 0 is this object, as in poller.py.
_ZERO = 0

_POLLIN = CONSTANTS["POLLIN"]
_POLLOUT = CONSTANTS["POLLOUT"]
_POLLPRI = CONSTANTS["POLLPRI"]
_POLLRDHUP = CONSTANTS.get("POLLRDHUP", 0)

# The event mask for each combination of a selector's events. The kernel reports POLLHUP, POLLERR
# and POLLNVAL for any mask.
_MASKS = {
    events: (_POLLIN if events & EVENT_READ else 0)
    | (_POLLOUT if events & EVENT_WRITE else 0)
    | (_POLLPRI if events & EVENT_URGENT else 0)
    | (_POLLRDHUP if events & EVENT_HANGUP else 0)
    for events in range(16)
}

Ready = tuple[int, int]
Pair = tuple[SelectorKey, int]

# Takes half the time of SelectorKey(...), a Python function that calls this.
_new_key = tuple.__new__


class _Reported(dict[int, list[int]]):
    """Maps an event of poll() to the list of what select() reports, indexed by the key's events."""

    def __missing__(self, event: int) -> list[int]:
        ready = (
            (EVENT_READ if event & _POLLIN else 0)
            | (EVENT_WRITE if event & _POLLOUT else 0)
            | (EVENT_URGENT if event & _POLLPRI else 0)
        )
        if event & ~(_POLLIN | _POLLOUT | _POLLPRI):
            # A hang-up or an error. It is reported as all of the key's events, unless the key has
            # EVENT_HANGUP.
            reported = [
                asked & (ready | EVENT_HANGUP) if asked & EVENT_HANGUP else asked
                for asked in _MASKS
            ]
        else:
            reported = [asked & ready for asked in _MASKS]
        self[event] = reported
        return reported


_reported = _Reported()


class _Pairs(dict[Ready, Pair]):
    """A cache that maps results of poll() to results of select().

    A busy server gets the same few events of the same descriptors again and again. A lookup runs no
    bytecode. With 100 descriptors ready, it takes half the time of a loop.
    """

    def __init__(self, keys: dict[int, SelectorKey]) -> None:
        super().__init__()
        self._keys = keys

    def __missing__(self, ready: Ready) -> Pair:
        fd, event = ready
        key = self._keys[fd]
        events = _reported[event][key.events]
        if not events:
            raise KeyError(ready)
        pair = self[ready] = key, events
        return pair


# With at least this many descriptors ready, _Pairs is faster than a loop. On PyPy, it never is.
_MANY_READY = sys.maxsize if _PYPY else 8


class _Registered(Mapping["Any", SelectorKey]):
    """The mapping of file objects and descriptors to keys that get_map() returns."""

    def __init__(self, selector: PollSelector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._fd_to_key)

    def __getitem__(self, fileobj: pypoll.types.FileDescriptorLike) -> SelectorKey:
        return self._selector._key_of(fileobj)

    def get(
        self, fileobj: pypoll.types.FileDescriptorLike, default: object = None
    ) -> pypoll.types.Any:
        """Return the key of a file object, or *default*. add_reader() of asyncio calls this."""
        if type(fileobj) is not int or fileobj < 0:
            fileobj = self._selector._fd_of(fileobj)
        return self._selector._fd_to_key.get(fileobj, default)

    def __iter__(self) -> Iterator[int]:
        return iter([*self._selector._fd_to_key])


class PollSelector(BaseSelector):
    """A selector that uses `Poll`, for asyncio and for busy servers.

    It accepts what ``selectors.PollSelector`` accepts, and differs as follows. The timeout of
    select() has nanosecond resolution, and is not rounded up to milliseconds. There are two more
    events, EVENT_URGENT and EVENT_HANGUP. An InterruptedError that a signal handler raises
    propagates (CPython issue 120001). It has none of the faults of PyPy's poll().

    EVENT_URGENT is POLLPRI: out-of-band data, a change of a sysfs or GPIO value file, or packet
    mode of a pty.

    EVENT_HANGUP reports a hang-up, an error or an invalid descriptor, even if the key does not
    have EVENT_READ. A server can use it to stop working for a client that has disconnected.
    Without EVENT_HANGUP, select() reports these conditions as all events of the key.

    Any thread can register, modify and unregister while another one is in select().

    >>> import socket
    >>> left, right = socket.socketpair()
    >>> with PollSelector() as selector:
    ...     _ = selector.register(left, EVENT_READ | EVENT_HANGUP, "client")
    ...     _ = right.send(b"hello")
    ...     before = [(key.data, events) for key, events in selector.select()]
    ...     right.close()
    ...     after = [(key.data, events) for key, events in selector.select()]
    >>> before, after == [("client", EVENT_READ | EVENT_HANGUP)]
    ([('client', 1)], True)
    >>> left.close()

    With asyncio, use ``asyncio.SelectorEventLoop(pypoll.PollSelector())``. In Python 3.12 and
    later, pass a function that returns such a loop to ``asyncio.run()`` as *loop_factory*.
    """

    # The standard library's names, because its tests and some programs use them.
    _selector_cls = Poll
    if TYPE_CHECKING:
        _fd_to_key: dict[int, SelectorKey]

    def __init__(self) -> None:
        """Create a selector with nothing registered."""
        # The keys are authoritative, and the set of the Poll is updated to match them. The next
        # select() does this for the descriptors in _unsettled, whose change was interrupted by an
        # exception, or left to it.
        self._fd_to_key = {}
        self._unsettled: set[int] = set()
        self._pairs: _Pairs | None = None
        self._map: _Registered | None = _Registered(self)
        self._selector = self._selector_cls()
        # None if it is an instance of a subclass, which may override any method.
        self._set = self._selector._pypoll_set if type(self._selector) is Poll else None
        # How often the set was changed. A change of a key first reads this, then changes the key,
        # and then the set, unless another thread or a signal handler has changed the set since.
        self._changes = 0
        self._follow_now: Callable[[pypoll.types.Any, int, int, int], int] = (
            self._overriding_follow if self._set is None else lib.pypoll_follow
        )
        # On PyPy, a call of the C code takes longer than the standard selector's register(). So
        # select() applies the changes, and often finds that a later one has undone them.
        self._follow: Callable[[pypoll.types.Any, int, int, int], int] = (
            self._follow_later if _PYPY and self._set is not None else self._follow_now
        )

    def register(
        self, fileobj: pypoll.types.FileDescriptorLike, events: int, data: object = None
    ) -> SelectorKey:
        """Register a file object, or a descriptor, for some events.

        *fileobj* is an int or an object whose ``fileno()`` returns a value that ``int()`` accepts.
        *events* combines EVENT_READ, EVENT_WRITE, EVENT_URGENT and EVENT_HANGUP. *data* is stored
        in the key.

        Returns the SelectorKey. Raises ValueError if *events* or *fileobj* is invalid, TypeError
        if *events* is not an int, KeyError if *fileobj* is already registered, and MemoryError if
        memory runs out (on PyPy, the next select() may raise it).
        """
        if type(events) is not int or not 0 < events < 16:
            events = _checked_events(events, 1)
        fd = (
            fileobj
            if type(fileobj) is int and 0 <= fileobj <= MAX_DESCRIPTOR
            else self._fd_of(fileobj)
        )
        key: SelectorKey = _new_key(SelectorKey, (fileobj, fd, events, data))
        keys = self._fd_to_key
        changes = self._changes
        try:
            if keys.setdefault(fd, key) is not key:
                raise KeyError(f"{shown(fileobj)} (FD {fd}) is already registered")
            self._pairs = None
            changes = self._follow(self._set, changes, fd, _MASKS[events])
            if changes >= 0:
                self._changes = changes
            else:
                self._settle(fd)
        except BaseException:
            if keys.get(fd) is key:
                keys.pop(fd, None)
            self._unsettled.add(fd)
            raise
        return key

    def unregister(self, fileobj: pypoll.types.FileDescriptorLike) -> SelectorKey:
        """Unregister a file object, which may be closed already.

        Returns its key. Raises KeyError if it is not registered, and ValueError if it is not a
        file object.
        """
        fd = (
            fileobj
            if type(fileobj) is int and 0 <= fileobj <= MAX_DESCRIPTOR
            else self._fd_of(fileobj)
        )
        changes = self._changes
        try:
            key = self._fd_to_key.pop(fd, None)
            if key is not None:
                self._pairs = None
                changes = self._follow(self._set, changes, fd, 0)
                if changes >= 0:
                    self._changes = changes
                else:
                    self._settle(fd)
                return key
        except BaseException:
            self._unsettled.add(fd)
            raise
        raise KeyError(f"{shown(fileobj)} is not registered")

    def modify(
        self, fileobj: pypoll.types.FileDescriptorLike, events: int, data: object = None
    ) -> SelectorKey:
        """Change the events or the data of a registered file object.

        If *events* is 0, the file object is paused: it stays registered, but until the next
        modify() nothing is reported, not even a hang-up.

        Returns the new key. Raises the exceptions of unregister(), ValueError or TypeError if
        *events* is invalid, and MemoryError if memory runs out. After a MemoryError, the file
        object is no longer registered, as with the standard selectors.
        """
        if type(events) is not int or not 0 <= events < 16:
            events = _checked_events(events, 0)
        key = self._key_of(fileobj)
        if events == key.events and data is key.data:
            return key
        fd = key.fd
        changed: SelectorKey = _new_key(SelectorKey, (key.fileobj, fd, events, data))
        changes = self._changes
        try:
            self._fd_to_key[fd] = changed
            self._pairs = None
            if self._set is None and events and key.events:
                with suppress(FileNotFoundError):  # another thread has removed it
                    self._selector.modify(fd, _MASKS[events])
            changes = self._follow(self._set, changes, fd, _MASKS[events])
            if changes >= 0:
                self._changes = changes
            else:
                self._settle(fd)
        except BaseException:
            if events == key.events:
                self._unsettled.add(fd)
            else:
                with suppress(KeyError):
                    self.unregister(fd)
            raise
        return changed

    def select(self, timeout: pypoll.types.Timeout = None) -> list[Pair]:
        """Wait until a registered file object is ready.

        *timeout* is any real number of seconds. None and infinity wait indefinitely; zero and
        negative numbers do not block. The wait never times out early. Timeouts have nanosecond
        resolution, except on macOS: it lacks ppoll(2), so they are rounded up to the next
        millisecond.

        Returns a list of (key, events), one for each ready file object, in the order of
        registration. A file object that was paused comes last. A hang-up or an error is reported
        as all events of the key, unless they include EVENT_HANGUP.

        Raises the exceptions of Poll.poll() and those of signal handlers.
        """
        if _PYPY and self._follow is not self._follow_now:
            # So changes by a signal handler take effect in this wait.
            self._follow = self._follow_now
            try:
                return PollSelector.select(self, timeout)
            finally:
                self._follow = self._follow_later
        while self._unsettled:
            for fd in [*self._unsettled]:
                self._settle(fd)
        if timeout is _ZERO:
            ready = self._selector.poll(0)
        elif timeout is None:
            ready = self._selector.poll()
        else:
            limit = nanoseconds(timeout, PER_SECOND)
            if self._set is not None:
                ready = self._selector._poll_for(0 if limit == NEGATIVE else limit)
            else:
                ready = self._overriding_poll(limit)
        if not ready:
            return []
        keys = self._fd_to_key
        count = len(ready)
        if count == 1:
            # The most common result; 6 % faster without the loop below.
            fd, event = ready[0]
            key = keys.get(fd)
            if key is not None and (events := _reported[event][key.events]):
                return [(key, events)]
            return []
        if count >= _MANY_READY:
            pairs = self._pairs
            if pairs is not None:
                with suppress(KeyError):  # a key was removed
                    return list(map(pairs.__getitem__, ready))
            else:
                # Create it before reading any key, so that a change of a key discards its pairs.
                self._pairs = _Pairs(keys)
        found = []
        for fd, event in ready:
            key = keys.get(fd)
            if key is not None and (events := _reported[event][key.events]):
                found.append((key, events))
        return found

    def close(self) -> None:
        """Unregister all file objects, which stay open."""
        self._map = None
        for fd in [*self._fd_to_key]:
            with suppress(KeyError):
                self.unregister(fd)

    def get_key(self, fileobj: pypoll.types.FileDescriptorLike) -> SelectorKey:
        """Return the key of a registered file object.

        Raises KeyError if it is not registered, ValueError if it is not a file object, and
        RuntimeError if the selector is closed.
        """
        if self._map is None:
            raise RuntimeError("Selector is closed")
        return self._key_of(fileobj)

    def get_map(self) -> Mapping[pypoll.types.Any, SelectorKey]:
        """Return a mapping of file objects to keys, which reflects later changes."""
        return self._map  # type: ignore[return-value] # None after close(), as in selectors

    def _follow_later(self, _set: object, _changes: int, fd: int, _mask: int) -> int:
        """Leave a change to the next select()."""
        self._unsettled.add(fd)
        return 0

    def _overriding_follow(self, _set: None, _changes: int, fd: int, mask: int) -> int:
        """Do what pypoll_follow() does, by the methods of a subclass."""
        if mask:
            self._selector.register(fd, mask)
        else:
            with suppress(KeyError):
                self._selector.unregister(fd)
        return 0 if self._mask_of(fd) == mask else -EAGAIN

    def _overriding_poll(self, limit: int) -> list[Ready]:
        """Call a subclass's poll(), which takes milliseconds, with a limit in nanoseconds."""
        if limit == NO_LIMIT:
            return self._selector.poll()
        # Up to 2**53 ns, a float is exact enough not to shorten the wait.
        return self._selector.poll(
            0 if limit == NEGATIVE else limit / 1e6 if limit < 2**53 else -(-limit // 10**6)
        )

    def _fd_of(self, fileobj: pypoll.types.FileDescriptorLike) -> int:
        """Return the descriptor of a file object, even of a closed one if it is registered."""
        try:
            if isinstance(fileobj, int):
                return descriptor(fileobj, stacklevel=4)
            fd = int(fileobj.fileno())
            return fd if 0 <= fd <= MAX_DESCRIPTOR else descriptor(fd)
        except Exception as error:
            for key in [*self._fd_to_key.values()]:
                if key.fileobj is fileobj:
                    return key.fd
            raise ValueError(f"Invalid file object: {shown(fileobj)}: {shown(error)}") from error

    def _key_of(self, fileobj: pypoll.types.FileDescriptorLike) -> SelectorKey:
        """Return the key of a file object, or raise KeyError."""
        fd = (
            fileobj
            if type(fileobj) is int and 0 <= fileobj <= MAX_DESCRIPTOR
            else self._fd_of(fileobj)
        )
        key = self._fd_to_key.get(fd)
        if key is None:
            raise KeyError(f"{shown(fileobj)} is not registered")
        return key

    def _mask_of(self, fd: int) -> int:
        """Return the event mask that the set must have for a descriptor, or 0 for none."""
        key = self._fd_to_key.get(fd)
        return 0 if key is None else _MASKS[key.events]

    def _settle(self, fd: int) -> None:
        """Update the set to match the key of a descriptor."""
        done = False
        try:
            self._pairs = None
            while not done:
                self._unsettled.add(fd)
                changes = 0 if self._set is None else lib.pypoll_changes(self._set)
                mask = self._mask_of(fd)
                changes = self._follow_now(self._set, changes, fd, mask)
                if changes in _TOO_SMALL:
                    self._selector.register(fd, mask)
                elif changes >= 0:
                    # Only now: until the set is right, another select() must not use it. Another
                    # thread may have added fd after a newer change, so look at the key again.
                    self._unsettled.discard(fd)
                    done = self._mask_of(fd) == mask
            self._changes = changes
        except BaseException:
            self._unsettled.add(fd)
            raise


def _checked_events(events: pypoll.types.SupportsIndex, least: int) -> int:
    """Return a selector's events as a plain int, or raise TypeError or ValueError."""
    number = index(events, "events")
    if not least <= number < 16:
        raise ValueError(
            f"Invalid events: {shown(number)}: expected EVENT_READ, EVENT_WRITE, EVENT_URGENT, "
            "EVENT_HANGUP, or several of them combined by |"
        )
    return number
