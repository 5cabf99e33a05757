"""`Poll` and `poll_fd`."""

from __future__ import annotations

import operator
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from errno import EBUSY, EINTR, ENOENT
from struct import Struct
from types import FrameType

from pypoll.descriptors import MAX_DESCRIPTOR, descriptor
from pypoll.events import DEFAULT_MASK, MAX_MASK, PollEvent, event_mask
from pypoll.integers import plain
from pypoll.library import ffi, lib
from pypoll.messages import shown
from pypoll.timeouts import NO_LIMIT, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, SupportsIndex

    from typing_extensions import Self

    from pypoll.descriptors import FileDescriptorLike
    from pypoll.timeouts import RealNumber

__all__ = ["Poll", "poll", "poll_fd"]

# Bound here, a function of the library costs 20 ns less a call on CPython.
_register = lib.pypoll_register
_modify = lib.pypoll_modify
_unregister = lib.pypoll_unregister
_check = lib.pypoll_check
_wait = lib.pypoll_wait
_wait_for = lib.pypoll_wait_for
_resume = lib.pypoll_resume
_gather = lib.pypoll_gather
_clock = lib.pypoll_clock
_one = lib.pypoll_one
_check_one = lib.pypoll_check_one

_MANY = lib.PYPOLL_MANY
_HAS_PPOLL = bool(lib.pypoll_has_ppoll())

# The 0 that a caller writes is this very object, which `is` tells sooner than `==` does and
# without calling a method of somebody's number.
_ZERO = 0

_SHOWN_IN_REPR = 8

# Asked once: it makes an enum member of each, 50 us in all.
_VALID_SIGNALS = frozenset(signal.valid_signals())


def _allocated(_size: int = 0) -> Any:
    poll_set = lib.pypoll_new()
    if not poll_set:
        raise MemoryError("no memory for a set of descriptors")
    return poll_set


if sys.implementation.name == "pypy":

    def _run_handlers() -> None:
        # In compiled code PyPy 7.3.11 runs signal handlers where a loop jumps back, and sometimes
        # not even there. This call always runs them.
        signal.pthread_sigmask(signal.SIG_BLOCK, ())

    # A plain loop over the C array is by far the fastest there.
    def _window_of(poll_set: Any) -> Any:
        return lib.pypoll_window(poll_set)

    def _entries(window: Any, count: int) -> list[tuple[int, int]]:
        return [(window[i].fd, window[i].event) for i in range(count)]

    # About what the shim allocates for an empty set, so that the collector counts it.
    _EMPTY_SET_SIZE = 2600

    def _owned_set() -> Any:
        return ffi.gc(_allocated(), lib.pypoll_free, _EMPTY_SET_SIZE)

else:

    def _run_handlers() -> None:
        # CPython runs them at every call.
        pass

    # On CPython struct makes the tuples without a step of the interpreter: 35 ns each.
    _entry = Struct("2i")
    _unpacked = _entry.iter_unpack
    _ENTRY_SIZE = _entry.size

    def _window_of(poll_set: Any) -> Any:
        return memoryview(ffi.buffer(lib.pypoll_window(poll_set), lib.PYPOLL_WINDOW * _ENTRY_SIZE))

    def _entries(window: Any, count: int) -> list[tuple[int, int]]:
        return [*_unpacked(window[: count * _ENTRY_SIZE])]

    # The collector of CPython runs what ffi.gc() was given among the finalizers of a garbage
    # cycle, in any order, and one of those may still use the set: an unclosed event loop
    # unregisters in its own. What an allocator made it cannot see behind the cdata that ffi
    # returns, and so it is freed with the last reference to that.
    _new = ffi.new_allocator(_allocated, lib.pypoll_free, should_clear_after_alloc=False)

    def _owned_set() -> Any:
        return _new("struct pypoll_ready *")


class Poll:
    """A set of file descriptors, and what is ready among them: a drop-in for ``select.poll()``.

    Any thread may change the set at any time, also while another thread waits in it: the change
    counts from the next wait on. One wait at a time: another one raises RuntimeError.

    The object has the length of its set, can be asked ``fd in p`` and ``p[fd]`` (the event mask),
    and iterates over the descriptors in the order of registration. It is true also when it is
    empty, as ``select.poll()`` is.

    A forked child has a copy of the set, free to wait in even if another thread of the parent
    was waiting (CPython's own object stays "concurrent" there for ever).

    >>> import os
    >>> reading, writing = os.pipe()
    >>> p = Poll()
    >>> p.register(reading, POLLIN)
    >>> p.poll(0)
    []
    >>> os.write(writing, b"x")
    1
    >>> p.poll() == [(reading, POLLIN)]
    True
    >>> len(p), reading in p, p[reading] == POLLIN
    (1, True, True)
    """

    __slots__ = (
        "__weakref__",
        "_pypoll_address",
        "_pypoll_owner",
        "_pypoll_set",
        "_pypoll_window",
    )

    # The set, and where it is. It lives as long as this object, whose garbage collection takes
    # the attributes in the order of their names. The names are such as no subclass has by chance:
    # `self._set = set()` there would free what the address still leads to.
    _pypoll_address: int
    _pypoll_owner: Any
    _pypoll_set: Any
    _pypoll_window: Any

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Make the set: here, so that a subclass which forgets to call __init__ works too."""
        self = super().__new__(cls)
        self._pypoll_owner = _owned_set()
        self._pypoll_set = ffi.cast("pypoll_set *", self._pypoll_owner)
        self._pypoll_window = _window_of(self._pypoll_set)
        self._pypoll_address = int(ffi.cast("intptr_t", self._pypoll_set))
        return self

    def __init__(self) -> None:
        """Make an empty set."""

    def register(self, fd: FileDescriptorLike, eventmask: SupportsIndex = DEFAULT_MASK, /) -> None:
        """Put a descriptor into the set, or give one that is there a new event mask.

        *fd* is an int or an object with a ``fileno()`` that returns one; whether it is open is
        seen when it is polled. *eventmask* is made of the POLL* constants, POLLIN, POLLPRI and
        POLLOUT by default; POLLERR, POLLHUP and POLLNVAL are reported whatever it says. A new
        descriptor comes last in the results, a known one keeps its place.

        Raises TypeError for what is no descriptor or no mask, ValueError if one is negative,
        OverflowError if it is too large for the system call, MemoryError when memory is
        refused; the set is then as it was. A bool as *fd* is warned of, as in CPython 3.13.
        """
        if type(fd) is not int or type(eventmask) is not int:
            fd, eventmask = descriptor(fd), event_mask(eventmask)
        try:
            error = _register(self._pypoll_address, fd, eventmask)
        except OverflowError as overflow:
            _refuse(overflow, "register", fd, eventmask)
        if error:
            _refuse(error, "register", fd, eventmask)

    def modify(self, fd: FileDescriptorLike, eventmask: SupportsIndex, /) -> None:
        """Give a descriptor of the set a new event mask.

        Arguments and exceptions are those of register(), and OSError with ENOENT, which is
        FileNotFoundError, is raised if *fd* is not registered.
        """
        if type(fd) is not int or type(eventmask) is not int:
            fd, eventmask = descriptor(fd), event_mask(eventmask)
        try:
            error = _modify(self._pypoll_address, fd, eventmask)
        except OverflowError as overflow:
            _refuse(overflow, "modify", fd, eventmask)
        if error == -ENOENT:
            raise OSError(ENOENT, os.strerror(ENOENT))
        if error:
            _refuse(error, "modify", fd, eventmask)

    def unregister(self, fd: FileDescriptorLike, /) -> None:
        """Take a descriptor out of the set.

        It may be closed already: pass its number then, for a closed file object has none.

        Raises KeyError if it is not registered, the exceptions of register() for what is no
        descriptor, and MemoryError when another thread is waiting in the set and memory for a
        second array is refused.
        """
        if type(fd) is not int:
            fd = descriptor(fd)
        try:
            error = _unregister(self._pypoll_address, fd)
        except OverflowError as overflow:
            _refuse(overflow, "unregister", fd)
        if error == -ENOENT:
            raise KeyError(fd)
        if error:
            _refuse(error, "unregister", fd)

    def poll(self, timeout: RealNumber | None = None, /) -> list[tuple[int, int]]:
        """Wait until a descriptor of the set is ready, and return a list of (fd, event).

        *timeout* is any real number of milliseconds: 0 returns at once, None, ``math.inf`` and
        every negative number are no limit. The wait is never shorter, and not longer by rounding
        either: fractions count down to the nanosecond where the system has ppoll(2), and are
        rounded up to the millisecond on macOS, which has not.

        The list is in the order of registration, and empty when time ran out. Each event has the
        bits that are ready, also such as no constant names. A descriptor that is closed gives
        POLLNVAL each time until it is unregistered.

        A Python signal handler runs while this waits; what it raises leaves poll(), and else the
        wait goes on for what is left of its time (PEP 475), on the monotonic clock.

        Raises TypeError for what is no real number, ValueError for a NaN, OverflowError above
        9223372036854 ms, RuntimeError("concurrent poll() invocation") if another thread waits in
        this object or a signal handler calls that interrupted such a wait, and OSError when the
        system call fails: EINVAL for more descriptors than RLIMIT_NOFILE allows, ENOMEM.

        macOS cannot poll devices: a terminal or /dev/null gives POLLNVAL (its poll(2), BUGS).
        """
        try:
            while True:
                if timeout is _ZERO:
                    answer = _check(self._pypoll_address)
                elif timeout is None:
                    answer = _wait(self._pypoll_address)
                else:
                    answer = _wait_for(self._pypoll_address, nanoseconds(timeout))
                if answer == 0:
                    return []
                if answer > 0:
                    return [(answer >> 16, answer & MAX_MASK)]
                if answer < _MANY:
                    # As _finish() does it, at 50 of 900 ns more with ten ready on CPython.
                    ready = _entries(self._pypoll_window, _MANY - answer)
                    count = _gather(self._pypoll_address)
                    return self._with_rest(ready, count) if count else ready
                if answer != -EBUSY:
                    return self._finish(answer)
                self._end_stale_hold()
        except BaseException:
            self._abandon()
            raise

    def ppoll(
        self,
        timeout: RealNumber | None = None,
        sigmask: Iterable[int] | None = None,
        /,
    ) -> list[tuple[int, int]]:
        """Wait like poll(), with another signal mask for the time of the wait.

        *sigmask*, an iterable of signal numbers as for ``signal.pthread_sigmask()``, is the set
        of signals that are blocked during the wait and only then; None leaves the mask alone.
        The masks are swapped by the kernel, in one step with the wait (POSIX.1-2024, ppoll), so
        that a signal which the thread keeps blocked otherwise is taken in the wait and nowhere
        else: none is lost between looking and waiting.

        Raises the exceptions of poll(), TypeError for what is no iterable of ints, ValueError
        for a number that is no signal's, and NotImplementedError with a *sigmask* on macOS,
        which has no ppoll(2).

        >>> import signal
        >>> Poll().ppoll(0, {signal.SIGINT, signal.SIGTERM})  # doctest: +SKIP
        []
        """
        if sigmask is None:
            return Poll.poll(self, timeout)
        limit = NO_LIMIT if timeout is None else nanoseconds(timeout)
        signals = _signal_numbers(sigmask)
        if not _HAS_PPOLL:
            raise NotImplementedError("this system has no ppoll(2), so sigmask must be None")
        return self._poll_for(limit, signals)

    def _poll_for(self, limit: int, signals: bytes | None = None) -> list[tuple[int, int]]:
        """Wait for so many nanoseconds, with these signals blocked if there are any given."""
        try:
            while True:
                if signals is not None:
                    answer = lib.pypoll_wait_masked(self._pypoll_set, limit, signals, len(signals))
                elif limit == 0:
                    answer = _check(self._pypoll_address)
                else:
                    answer = _wait_for(self._pypoll_address, limit)
                if answer != -EBUSY:
                    return self._finish(answer)
                self._end_stale_hold()
        except BaseException:
            self._abandon()
            raise

    def _finish(self, answer: int) -> list[tuple[int, int]]:
        """Return the result of a wait that answered so, going on with it where need be."""
        while answer == -EINTR:
            _run_handlers()
            answer = _resume(self._pypoll_set)
        if answer > 0:
            return [(answer >> 16, answer & MAX_MASK)]
        if answer == 0:
            return []
        if answer > _MANY:
            raise OSError(-answer, os.strerror(-answer))
        return self._with_rest([], _MANY - answer)

    def _with_rest(self, ready: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
        """Return these results with so many that are in the window, and all that follow."""
        while count:
            ready += _entries(self._pypoll_window, count)
            count = _gather(self._pypoll_address)
        return ready

    def _end_stale_hold(self) -> None:
        """End a hold whose wait was cut off by an exception, or raise RuntimeError.

        A wait that a signal interrupted, or whose results are being read, holds the set. An
        asynchronous exception can cut it off between any two instructions, those of an except
        block among them, so no try statement can promise to end the hold. Therefore who comes
        next looks whether the wait lives on: it does while its frame is on its thread's stack.

        On PyPy the stack of another thread is not to be seen, and its hold is left to its own
        except block and its next wait, unless it has ended.
        """
        hold = lib.pypoll_hold(self._pypoll_set)
        holder = lib.pypoll_holder(self._pypoll_set)
        if not hold:
            waits = 1
        elif holder == threading.get_ident():
            waits = self._waits(sys._getframe()) - 1  # but the one that asks
        elif sys.implementation.name == "pypy":
            # sys._current_frames() crashes it while other threads run compiled code (7.3.11).
            waits = int(any(thread.ident == holder for thread in threading.enumerate()))
        else:
            waits = self._waits(sys._current_frames().get(holder))
        if waits > 0:
            raise RuntimeError("concurrent poll() invocation")
        lib.pypoll_release(self._pypoll_set, hold)

    def _abandon(self) -> None:
        """End the hold of a wait that an exception leaves."""
        hold = lib.pypoll_hold(self._pypoll_set)
        if (
            hold
            and lib.pypoll_holder(self._pypoll_set) == threading.get_ident()
            and self._waits(sys._getframe()) == 1
        ):
            lib.pypoll_release(self._pypoll_set, hold)

    def _waits(self, frame: FrameType | None) -> int:
        """Return how many waits in this object are on a stack."""
        waits = 0
        while frame is not None:
            # Not by ==: near the recursion limit that of code objects leaves an exception behind.
            code = frame.f_code
            if (code is _POLL or code is _POLL_FOR) and frame.f_locals.get("self") is self:
                waits += 1
            frame = frame.f_back
        return waits

    def __len__(self) -> int:
        return lib.pypoll_len(self._pypoll_set)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, fd: FileDescriptorLike, /) -> bool:
        return lib.pypoll_mask(self._pypoll_set, descriptor(fd)) >= 0

    def __getitem__(self, fd: FileDescriptorLike, /) -> int:
        number = descriptor(fd)
        mask = lib.pypoll_mask(self._pypoll_set, number)
        if mask < 0:
            raise KeyError(number)
        return mask

    def __iter__(self) -> Iterator[int]:
        return iter(self._descriptors())

    def _descriptors(self) -> list[int]:
        """Return the descriptors of one moment, in order."""
        room = len(self)
        while True:
            fds = ffi.new("int[]", room)
            count = lib.pypoll_list(self._pypoll_set, fds, room)
            if count <= room:
                return ffi.unpack(fds, count)
            room = count

    def __repr__(self) -> str:
        fds = self._descriptors()
        masks = []
        for fd in fds[:_SHOWN_IN_REPR]:
            mask = lib.pypoll_mask(self._pypoll_set, fd)
            if mask >= 0:
                masks.append(f" {fd}: {PollEvent(mask)!s}")
        if len(fds) > _SHOWN_IN_REPR:
            masks.append(" ...")
        return f"<{type(self).__qualname__} of {len(fds)}{':' if fds else ''}{','.join(masks)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


def _refuse(error: int | OverflowError, change: str, fd: int, eventmask: int = 0) -> NoReturn:
    """Raise what becomes of a change that the shim answered so, or that cffi refused so.

    That they look whether the numbers are in range, and not register() itself, spares it 28 of
    210 ns on CPython 3.11.
    """
    try:
        descriptor(fd)
        event_mask(eventmask)
    except (ValueError, OverflowError) as out_of_range:
        raise out_of_range from None
    if isinstance(error, OverflowError):
        raise error  # a signal handler's
    raise MemoryError(f"no memory to {change} file descriptor {fd}")


# The name that the select module gives it.
poll = Poll

# The code of the methods in whose frames a wait lives: one of them to a wait.
_POLL = Poll.poll.__code__
_POLL_FOR = Poll._poll_for.__code__


def poll_fd(
    fd: FileDescriptorLike,
    eventmask: SupportsIndex = DEFAULT_MASK,
    timeout: RealNumber | None = None,
    /,
) -> int:
    """Wait until one descriptor is ready, and return its events, 0 when time ran out.

    For a single wait on a single descriptor: one system call, and no object to make. Arguments,
    exceptions and signals are as in Poll.register() and Poll.poll(); any number of threads may
    wait for the same descriptor.

    >>> import os
    >>> reading, writing = os.pipe()
    >>> poll_fd(reading, POLLIN, 0.25)
    0
    >>> poll_fd(writing, POLLOUT) == POLLOUT
    True
    """
    if type(fd) is not int or not 0 <= fd <= MAX_DESCRIPTOR:
        fd = descriptor(fd)
    if type(eventmask) is not int or not 0 <= eventmask <= MAX_MASK:
        eventmask = event_mask(eventmask)
    if timeout is None:
        deadline = NO_LIMIT
    elif timeout is _ZERO:
        deadline = 0
    else:
        deadline = nanoseconds(timeout)
        if deadline > 0:
            deadline = min(_clock() + deadline, 2**63 - 1)
    while True:
        # One argument instead of three: 40 of 540 ns on CPython 3.11.
        event = _one(fd, eventmask, deadline) if deadline else _check_one(fd * 65536 + eventmask)
        if event >= 0:
            return event
        if event != -EINTR:
            raise OSError(-event, os.strerror(-event))
        _run_handlers()
        if deadline >= 0 and _clock() >= deadline:
            return 0


def _signal_numbers(sigmask: Iterable[int]) -> bytes:
    """Return the numbers of the signals in a mask, checked as signal.pthread_sigmask() does."""
    numbers = set()
    for item in sigmask:
        try:
            number = plain(operator.index(item))
        except TypeError:
            raise TypeError(f"signal mask must hold signal numbers, not {shown(item)}") from None
        if not 1 <= number < signal.NSIG:
            raise ValueError(
                f"signal number {shown(number)} is out of range: expected 1 to {signal.NSIG - 1}"
            )
        if number in _VALID_SIGNALS:
            numbers.add(number)
        else:
            # The C library keeps some for itself; `range(1, NSIG)` is allowed all the same.
            warnings.warn(
                f"invalid signal number {number}, please use valid_signals()",
                RuntimeWarning,
                stacklevel=3,
            )
    return bytes(sorted(numbers))
