"""`PollSelector`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey

from pypoll.descriptors import descriptor
from pypoll.events import CONSTANTS
from pypoll.integers import index
from pypoll.messages import shown
from pypoll.poller import Poll
from pypoll.timeouts import NEGATIVE, PER_SECOND, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    from pypoll.descriptors import FileDescriptorLike
    from pypoll.timeouts import RealNumber

__all__ = ["EVENT_READ", "EVENT_URGENT", "EVENT_WRITE", "PollSelector"]

EVENT_URGENT = 4

# As in poller.py: the 0 that callers write, which needs no conversion.
_ZERO = 0

_EVERY_EVENT = EVENT_READ | EVENT_WRITE | EVENT_URGENT
_POLLIN = CONSTANTS["POLLIN"]
_POLLOUT = CONSTANTS["POLLOUT"]
_POLLPRI = CONSTANTS["POLLPRI"]

Ready = tuple[int, int]
Pair = tuple[SelectorKey, int]


def _checked_events(events: SupportsIndex) -> int:
    """Return the events of a selector as a plain int, or raise TypeError or ValueError."""
    number = index(events, "events")
    if not number or number & ~_EVERY_EVENT:
        raise ValueError(
            f"Invalid events: {shown(number)}: expected EVENT_READ, EVENT_WRITE, EVENT_URGENT "
            "or some of them together"
        )
    return number


def _event_mask(events: int) -> int:
    """Return the event mask for the events of a selector."""
    mask = 0
    if events & EVENT_READ:
        mask |= _POLLIN
    if events & EVENT_WRITE:
        mask |= _POLLOUT
    if events & EVENT_URGENT:
        mask |= _POLLPRI
    return mask


def _selector_events(event: int) -> int:
    """Return the selector's events for an event of poll(): what nobody asks for wakes everybody."""
    if event & ~(_POLLIN | _POLLOUT | _POLLPRI):
        return _EVERY_EVENT
    events = 0
    if event & _POLLIN:
        events |= EVENT_READ
    if event & _POLLOUT:
        events |= EVENT_WRITE
    if event & _POLLPRI:
        events |= EVENT_URGENT
    return events


class _Pairs(dict[Ready, Pair]):
    """From a result of poll() to that of select(), made at the first miss.

    A busy server sees the same few events of the same descriptors again and again, and finds
    them here without a step of the interpreter: 100 ready take 0.46 of the time of a loop. The
    pairs of a descriptor are dropped when its key changes, so there are never more than its few
    kinds of events for each key.
    """

    def __init__(self, keys: dict[int, SelectorKey]) -> None:
        super().__init__()
        self._keys = keys
        # The events for which a descriptor has, or had, a pair. None is ever taken out again: so
        # a drop() that an exception cut off can be repeated, and the numbers of descriptors and
        # their kinds of events are few.
        self._seen: dict[int, list[int]] = {}

    def made(self, fd: int, event: int) -> Pair:
        """Return a new pair, or raise KeyError if the descriptor has lost its key."""
        key = self._keys[fd]
        return key, _selector_events(event) & key.events

    def __missing__(self, ready: Ready) -> Pair:
        fd, event = ready
        key, _ = pair = self.made(fd, event)
        seen = self._seen.setdefault(fd, [])
        if event not in seen:
            seen.append(event)
        self[ready] = pair
        # Another thread may have changed the key meanwhile, and dropped what was there before.
        if self._keys.get(fd) is not key:
            self.pop(ready, None)
        return pair

    def drop(self, fd: int) -> None:
        """Forget the pairs of a descriptor."""
        for event in self._seen.get(fd, ()):
            self.pop((fd, event), None)


if sys.implementation.name == "pypy":
    # There the loop is compiled, and to make a pair costs half of what it does to find one.
    def _pairs_of(pairs: _Pairs, ready: list[Ready]) -> list[Pair]:
        return [pairs.made(fd, event) for fd, event in ready]

else:

    def _pairs_of(pairs: _Pairs, ready: list[Ready]) -> list[Pair]:
        return list(map(pairs.__getitem__, ready))


class _Registered(Mapping["Any", SelectorKey]):
    """The keys by file object or descriptor, as get_map() shows them."""

    def __init__(self, selector: PollSelector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._fd_to_key)

    def __getitem__(self, fileobj: FileDescriptorLike) -> SelectorKey:
        return self._selector._key_of(fileobj)

    def __iter__(self) -> Iterator[int]:
        return iter(self._selector._fd_to_key)


class PollSelector(BaseSelector):
    """A ``selectors.BaseSelector`` over `Poll`: the selector for asyncio and for busy servers.

    What it has over ``selectors.PollSelector``: select() waits to the nanosecond, and does not
    round up to a millisecond; EVENT_URGENT; it is about twice as fast when many descriptors are
    ready; an InterruptedError that a signal handler raises leaves select() (CPython issue
    120001); it can be used on PyPy without the faults of PyPy's poll().

    >>> import socket
    >>> left, right = socket.socketpair()
    >>> with PollSelector() as selector:
    ...     _ = selector.register(left, EVENT_READ, "greeting")
    ...     _ = right.send(b"hello")
    ...     [(key.data, events) for key, events in selector.select()]
    [('greeting', 1)]
    >>> left.close(), right.close()
    (None, None)

    With asyncio: ``asyncio.SelectorEventLoop(pypoll.PollSelector())``, and from Python 3.12 on
    ``asyncio.run(main(), loop_factory=...)`` with a function that returns that.
    """

    # The two names are those of the standard library, whose tests look for them.
    _selector_cls = Poll
    _fd_to_key: dict[int, SelectorKey]

    def __init__(self) -> None:
        """Make a selector with nothing registered."""
        # The keys are the truth, and change in one step each. The set of the Poll and the pairs
        # follow from them: for a descriptor in _unsettled they may not have yet, because a
        # change of its key is going on, or was cut off by an exception.
        self._fd_to_key = {}
        self._unsettled: set[int] = set()
        self._selector = self._selector_cls()
        self._poll = self._selector.poll
        self._pairs = _Pairs(self._fd_to_key)
        self._map: _Registered | None = _Registered(self)

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """Register a file object, or a descriptor, for some events.

        *events* is made of EVENT_READ, EVENT_WRITE and EVENT_URGENT (POLLPRI: out-of-band data,
        sysfs and GPIO value files, packet mode of a pty). *data* is kept in the key.

        Returns the SelectorKey. Raises ValueError for invalid events or an invalid file object,
        KeyError if it is registered already, MemoryError when memory is refused.
        """
        events = _checked_events(events)
        mask = _event_mask(events)
        fd = self._fd_of(fileobj)
        if fd in self._fd_to_key:
            raise KeyError(f"{shown(fileobj)} (FD {fd}) is already registered")
        key = SelectorKey(fileobj, fd, events, data)
        self._unsettled.add(fd)
        self._fd_to_key[fd] = key
        try:
            self._selector.register(fd, mask)
            self._settled(fd, key)
        except BaseException:
            # A select() in the signal handler that raised this may have settled it meanwhile.
            self._unsettled.add(fd)
            self._fd_to_key.pop(fd, None)
            raise
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        """Unregister a file object, which may be closed already.

        Returns its key. Raises KeyError if it is not registered, ValueError for an invalid file
        object.
        """
        key = self._key_of(fileobj)
        self._remove(key.fd)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """Change the events or the data of a registered file object.

        Only a change of the events is one of the set. Returns the new key. Raises what
        unregister() raises, and ValueError for invalid events.
        """
        events = _checked_events(events)
        mask = _event_mask(events)
        key = self._key_of(fileobj)
        if events == key.events and data is key.data:
            return key
        changed = SelectorKey(key.fileobj, key.fd, events, data)
        self._unsettled.add(key.fd)
        self._fd_to_key[key.fd] = changed
        if events != key.events:
            try:
                try:
                    self._selector.modify(key.fd, mask)
                except FileNotFoundError:
                    # A select() in another thread, which saw no key before register() made this
                    # one, took the descriptor out of the set after register() had put it there.
                    self._settle(key.fd)
            except BaseException:
                # What the standard library does then, and its tests want.
                self._remove(key.fd)
                raise
        self._settled(key.fd, changed)
        return changed

    def select(self, timeout: RealNumber | None = None) -> list[Pair]:
        """Wait until a registered file object is ready.

        *timeout* is in seconds, any real number; None and infinity are no limit, zero and less
        do not wait. The wait is never shorter, and not rounded up either (but on macOS, which
        has no ppoll, to the millisecond).

        Returns a list of (key, events), one for each file object that is ready, in the order of
        registration. A hang-up or an error is reported as all the events that were asked for.

        Raises what Poll.poll() raises, and whatever a signal handler raises.
        """
        while self._unsettled:
            for fd in [*self._unsettled]:
                self._settle(fd)
        if timeout is None:
            ready = self._poll()
        elif timeout is _ZERO:
            ready = self._poll(0)
        else:
            limit = nanoseconds(timeout, PER_SECOND)
            ready = self._selector._poll_for(0 if limit == NEGATIVE else limit)
        if not ready:
            return []
        try:
            # One is what mostly comes where little does: 120 ns less on CPython than by map().
            return [self._pairs[ready[0]]] if len(ready) == 1 else _pairs_of(self._pairs, ready)
        except KeyError:
            return self._pairs_of_known(ready)

    def close(self) -> None:
        """Forget all that is registered; the file objects stay open."""
        self._map = None
        for fd in [*self._fd_to_key]:
            self._remove(fd)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        """Return a mapping of file objects to keys, which shows later changes too."""
        return self._map  # type: ignore[return-value] # None once it is closed, for get_key()

    def _fd_of(self, fileobj: FileDescriptorLike) -> int:
        """Return the descriptor of a file object, also of a closed one that is registered."""
        try:
            return descriptor(fileobj, stacklevel=4)
        except (TypeError, ValueError, OverflowError) as error:
            for key in [*self._fd_to_key.values()]:
                if key.fileobj is fileobj:
                    return key.fd
            raise ValueError(f"Invalid file object: {shown(fileobj)}") from error

    def _key_of(self, fileobj: FileDescriptorLike) -> SelectorKey:
        """Return the key of a file object or raise KeyError."""
        key = self._fd_to_key.get(self._fd_of(fileobj))
        if key is None:
            raise KeyError(f"{shown(fileobj)} is not registered")
        return key

    def _remove(self, fd: int) -> None:
        """Take the key of a descriptor away."""
        self._unsettled.add(fd)
        self._fd_to_key.pop(fd, None)
        self._settle(fd)

    def _settle(self, fd: int) -> None:
        """Make the set follow the key of a descriptor, whatever became of an earlier try."""
        key = self._fd_to_key.get(fd)
        if key is not None:
            self._selector.register(fd, _event_mask(key.events))
        else:
            with suppress(KeyError):
                self._selector.unregister(fd)
        self._settled(fd, key)

    def _settled(self, fd: int, key: SelectorKey | None) -> None:
        """Note that the set follows the key, unless another thread has changed that since.

        Then what this one did to the set may have undone what that one did.
        """
        self._pairs.drop(fd)
        self._unsettled.discard(fd)
        if self._fd_to_key.get(fd) is not key:
            self._unsettled.add(fd)

    def _pairs_of_known(self, ready: list[Ready]) -> list[Pair]:
        """Return the pairs of a result in which some descriptor lost its key since."""
        pairs = []
        for pair in ready:
            try:
                pairs.append(self._pairs[pair])
            except KeyError:
                continue
        return pairs
