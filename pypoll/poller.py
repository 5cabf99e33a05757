"""`Poll` and `poll_fd`."""

from __future__ import annotations

import operator
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from errno import EBUSY, EINVAL, ENOBUFS, ENOENT, ENOSPC
from functools import partial
from struct import Struct

import pypoll
from pypoll.descriptors import MAX_DESCRIPTOR, descriptor
from pypoll.events import DEFAULT_MASK, MAX_MASK, PollEvent, event_mask
from pypoll.integers import plain
from pypoll.library import ffi, lib
from pypoll.messages import shown
from pypoll.timeouts import NO_LIMIT, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Self

    import pypoll.types
    from pypoll.types import Any

__all__ = ["Poll", "poll", "poll_fd"]

# Looking the functions up only once saves 20 ns per call on CPython.
_new = ffi.new
_buffer = ffi.buffer
_register = lib.pypoll_register
_modify = lib.pypoll_modify
_unregister = lib.pypoll_unregister
_check = lib.pypoll_check
_wait = lib.pypoll_wait
_wait_for = lib.pypoll_wait_for
_latest = lib.pypoll_latest
_check_one = lib.pypoll_check_one
_wait_one = lib.pypoll_wait_one

_INTERRUPTED = lib.PYPOLL_INTERRUPTED
_SEVERAL = lib.PYPOLL_SEVERAL
_FEW = lib.PYPOLL_FEW
_MANY = lib.PYPOLL_MANY
_SIZE = lib.PYPOLL_SIZE
_HAS_PPOLL = bool(lib.pypoll_has_ppoll())

# A literal 0 is this object. `is` is faster than `==`, and does not call the argument's methods.
_ZERO = 0

_SHOWN_IN_REPR = 8

# Computed once, because creating an enum member for each signal takes 50 us.
_VALID_SIGNALS = frozenset(signal.valid_signals())

# On CPython, struct creates the tuples without running bytecode, in 35 ns each.
_entry = Struct("2i")
_unpacked = _entry.iter_unpack
_ENTRY_SIZE = _entry.size

_PYPY = sys.implementation.name == "pypy"
# If the answer is below this, poll() reads the results itself. On PyPy, it never does.
_READ_HERE = -(2**63) if _PYPY else _FEW
if _PYPY:
    from __pypy__ import add_memory_pressure


class _NoArguments:
    """The signature of Poll, without the arguments that __new__() accepts for subclasses."""

    def __get__(self, instance: Poll | None, owner: type[Poll]) -> Any:
        if owner is not Poll:
            raise AttributeError("__signature__")
        from inspect import Signature

        return Signature()


class Poll:
    """A set of file descriptors to wait for; a drop-in replacement for ``select.poll()`` objects.

    Any thread can change the set at any time, even while another thread waits in it. Changes
    never block, and take effect at the next system call. Only one thread can wait at a time; a
    second one gets a RuntimeError. A signal handler can use the object that it interrupted.

    ``len(p)`` is the number of descriptors, ``fd in p`` tests whether one is registered, and
    ``p[fd]`` is its event mask. Iteration is in the order of registration. An empty set is true,
    like an empty ``select.poll()`` object.

    A forked child gets a working copy of the set, even if another thread of the parent was
    waiting. (In such a child, CPython's own object raises RuntimeError for every wait.)

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
        "_pypoll_few",
        "_pypoll_many",
        "_pypoll_owner",
        "_pypoll_set",
    )

    # Names that a subclass is unlikely to use by chance. The set is never replaced, and every wait
    # holds a reference to this object, so memory that the kernel writes to is not freed during a
    # wait. The other three are created when they are needed.
    if TYPE_CHECKING:
        _pypoll_set: Any
        _pypoll_owner: Any
        _pypoll_few: Any
        _pypoll_many: Any

    if not TYPE_CHECKING:
        __signature__ = _NoArguments()

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Create an empty set."""
        # Not in __init__(), because a subclass may not call it.
        self = super().__new__(cls)
        self._pypoll_set = _new("pypoll_set *")
        return self

    def __init__(self) -> None:
        """Create an empty set."""

    def register(
        self,
        fd: pypoll.types.FileDescriptorLike,
        eventmask: pypoll.types.SupportsIndex = DEFAULT_MASK,
        /,
    ) -> None:
        """Register a descriptor, or change the event mask of a registered one.

        *fd* is an int or an object whose ``fileno()`` returns one. It need not be open: poll()
        reports POLLNVAL for a closed one. *eventmask* combines POLL* constants; the default is
        ``POLLIN | POLLPRI | POLLOUT``. POLLERR, POLLHUP and POLLNVAL are always reported. A new
        descriptor comes last in the results; a registered one keeps its place.

        Raises TypeError if *fd* is not a descriptor or *eventmask* is not an int, ValueError if
        one of them is negative, OverflowError if one is too large for the system call, and
        MemoryError if memory runs out. After an exception, the set is unchanged. A bool as *fd*
        emits a RuntimeWarning, as in CPython 3.13 and later.
        """
        if type(fd) is not int or type(eventmask) is not int:
            fd, eventmask = descriptor(fd), event_mask(eventmask)
        try:
            error = _register(self._pypoll_set, fd, eventmask)
        except OverflowError as overflow:
            _refuse(fd, eventmask, overflow)
        if error:
            if error == -ENOSPC:
                self._enlarge()
                error = _register(self._pypoll_set, fd, eventmask)
            if error:
                if error == -EINVAL:
                    _refuse(fd, eventmask)
                raise MemoryError(f"no memory to register file descriptor {fd}")

    def modify(
        self, fd: pypoll.types.FileDescriptorLike, eventmask: pypoll.types.SupportsIndex, /
    ) -> None:
        """Change the event mask of a registered descriptor.

        Takes the arguments of register() and raises its exceptions, except MemoryError. Raises
        FileNotFoundError (an OSError with ENOENT) if *fd* is not registered.
        """
        if type(fd) is not int or type(eventmask) is not int:
            fd, eventmask = descriptor(fd), event_mask(eventmask)
        try:
            error = _modify(self._pypoll_set, fd, eventmask)
        except OverflowError as overflow:
            _refuse(fd, eventmask, overflow)
        if error == -ENOENT:
            raise OSError(ENOENT, os.strerror(ENOENT))
        if error:
            _refuse(fd, eventmask)

    def unregister(self, fd: pypoll.types.FileDescriptorLike, /) -> None:
        """Remove a descriptor from the set.

        If the file object is already closed, pass the number that its descriptor had.

        Raises KeyError if *fd* is not registered, and the exceptions of register() if it is not a
        descriptor.
        """
        if type(fd) is not int:
            fd = descriptor(fd)
        try:
            error = _unregister(self._pypoll_set, fd)
        except OverflowError as overflow:
            _refuse(fd, 0, overflow)
        if error == -ENOENT:
            raise KeyError(fd)
        if error:
            _refuse(fd, 0)

    def poll(self, timeout: pypoll.types.Timeout = None, /) -> list[tuple[int, int]]:
        """Wait until a registered descriptor is ready, and return a list of (fd, event).

        *timeout* is any real number of milliseconds. 0 does not block. None, ``math.inf`` and
        negative numbers wait indefinitely. The wait never times out early. Timeouts have nanosecond
        resolution, except on macOS: it lacks ppoll(2), so they are rounded up to the next
        millisecond.

        The list is in the order of registration. It is empty after a timeout. An event may have
        bits that no constant names. A closed descriptor is reported as POLLNVAL by every call
        until it is unregistered.

        Signal handlers run during the wait. If a handler raises, its exception propagates;
        otherwise the wait continues for the remaining time (PEP 475). Time during which the
        process is stopped counts.

        Raises TypeError if *timeout* is not a real number, ValueError if it is a NaN,
        OverflowError above 9223372036854 ms, RuntimeError("concurrent poll() invocation") if
        another thread is waiting in this object, MemoryError if there is no memory for the
        result, and OSError if the system call fails: with EINVAL if more descriptors are
        registered than RLIMIT_NOFILE allows, or with ENOMEM.

        macOS cannot poll devices: it reports POLLNVAL for a terminal or /dev/null (BUGS section of
        its poll(2)).
        """
        if timeout is _ZERO:
            answer = _check(self._pypoll_set)
        elif timeout is None:
            answer = _wait(self._pypoll_set)
        else:
            answer = _wait_for(self._pypoll_set, nanoseconds(timeout))
        if answer == 0:
            return []
        if answer > 0:
            return [(answer >> 16, answer & MAX_MASK)]
        if answer < _READ_HERE:
            # The same as in _several(). Without that call, poll() is 15 % faster with ten ready.
            try:
                window = self._pypoll_many if answer < _MANY else self._pypoll_few
            except AttributeError:
                return self._several(answer)
            copied = window[: answer & _SIZE]
            if _latest(self._pypoll_set) == answer:
                return [*_unpacked(copied)]
        return self._result(answer)

    def ppoll(
        self,
        timeout: pypoll.types.Timeout = None,
        sigmask: pypoll.types.SignalMask = None,
        /,
    ) -> list[tuple[int, int]]:
        """Wait like poll(), with the thread's signal mask replaced during the wait.

        *sigmask* is an iterable of the signal numbers to block, as for
        ``signal.pthread_sigmask()``; None does not change the mask. The kernel replaces the mask
        and starts the wait in one atomic step (POSIX.1-2024, ppoll). So a signal that is blocked at
        other times is delivered only during the wait, and cannot be missed between a check and the
        wait.

        Raises the exceptions of poll(), TypeError if *sigmask* is not an iterable of ints,
        ValueError if one is not a signal number, and NotImplementedError if *sigmask* is given on
        macOS, which lacks ppoll(2).

        >>> import signal
        >>> Poll().ppoll(0, {signal.SIGINT, signal.SIGTERM})  # doctest: +SKIP
        []
        """
        if sigmask is None:
            return self.poll(timeout)
        limit = NO_LIMIT if timeout is None else nanoseconds(timeout)
        signals = _signal_numbers(sigmask)
        if not _HAS_PPOLL:
            raise NotImplementedError("this system has no ppoll(2), so sigmask must be None")
        return self._poll_for(limit, signals)

    def _poll_for(self, limit: int, signals: bytes | None = None) -> list[tuple[int, int]]:
        """Wait for *limit* nanoseconds, with *signals* as the signal mask unless it is None."""
        if signals is None:
            return self._result(_wait_for(self._pypoll_set, limit))
        return self._result(
            lib.pypoll_wait_masked(self._pypoll_set, limit, signals, len(signals)), signals
        )

    def _result(self, answer: int, signals: bytes | None = None) -> list[tuple[int, int]]:
        """Return or raise the result of a wait, given what the C function returned.

        If a signal interrupted the wait, run the handlers and continue it first.
        """
        while _SEVERAL <= answer <= _INTERRUPTED:
            _run_handlers()
            if signals is None:
                answer = _wait_for(self._pypoll_set, answer)
            else:
                answer = lib.pypoll_wait_masked(self._pypoll_set, answer, signals, len(signals))
        if answer == 0:
            return []
        if answer > 0:
            return [(answer >> 16, answer & MAX_MASK)]
        if answer < _SEVERAL:
            return self._several(answer)
        if answer == -EBUSY:
            raise RuntimeError("concurrent poll() invocation")
        if answer == -ENOBUFS:
            raise MemoryError("no memory for the results of poll()")
        raise OSError(-answer, os.strerror(-answer))

    def _several(self, answer: int) -> list[tuple[int, int]]:
        """Return the results of a wait that found several descriptors ready.

        A later wait, in another thread or a signal handler, may have overwritten them. Then this
        returns the results of that wait. They are complete, and were true at some moment during
        this call.
        """
        seen: Any = None
        buffer: Any = b""
        copied: Any
        while True:
            size = answer & _SIZE
            window = lib.pypoll_window(self._pypoll_set, answer)
            if _PYPY:
                # On PyPy, a plain loop over C memory is by far the fastest.
                copied = [(window[i].fd, window[i].event) for i in range(size // _ENTRY_SIZE)]
            else:
                # Create it only once. Creating it may run the garbage collector, and a finalizer
                # that polls this object would make the loop repeat.
                if window != seen or len(buffer) < size:
                    seen, buffer = window, self._buffer_of(window, answer)
                # A slice of a cffi buffer is a new bytes object. Slicing one memoryview in several
                # threads is not safe without the GIL.
                copied = buffer[:size]
            newest = _latest(self._pypoll_set)
            if newest == answer:
                return copied if _PYPY else [*_unpacked(copied)]
            answer = newest

    def _buffer_of(self, window: Any, answer: int) -> Any:
        """Return a buffer over the results in C memory, and keep it if later waits can use it."""
        if answer < _MANY:
            buffer = self._pypoll_many = _buffer(window, lib.PYPOLL_MANY_HOLDS * _ENTRY_SIZE)
        elif answer < _FEW:
            buffer = self._pypoll_few = _buffer(window, lib.PYPOLL_FEW_HOLDS * _ENTRY_SIZE)
        else:
            buffer = _buffer(window, answer & _SIZE)
        return buffer

    def _enlarge(self) -> None:
        """Let the set grow beyond its initial storage, if memory permits.

        Small sets need no destructor, which makes them cheap. Larger ones need an owner, whose
        destructor frees their memory. The owner is stored before the set uses such memory. So if
        an exception or another thread discards an owner, the set has another one, or there is
        nothing to free yet.

        The owner comes from an allocator, not from ffi.gc(). CPython's garbage collector may run
        the destructors of ffi.gc() before other finalizers of a cycle, which may still use the
        set. For example, an unclosed event loop unregisters its descriptors in its finalizer.
        """
        own = partial(lib.pypoll_own, self._pypoll_set)
        disown = partial(lib.pypoll_disown, self._pypoll_set)
        self._pypoll_owner = ffi.new_allocator(own, disown, False)("pypoll_set *")
        if _PYPY:
            # PyPy's garbage collector does not see memory that C code allocates.
            add_memory_pressure(2000)
        lib.pypoll_enlarge(self._pypoll_set)

    def __len__(self) -> int:
        return lib.pypoll_list(self._pypoll_set, ffi.NULL, -1)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, fd: pypoll.types.FileDescriptorLike, /) -> bool:
        return lib.pypoll_mask(self._pypoll_set, descriptor(fd)) >= 0

    def __getitem__(self, fd: pypoll.types.FileDescriptorLike, /) -> int:
        number = descriptor(fd)
        mask = lib.pypoll_mask(self._pypoll_set, number)
        if mask < 0:
            raise KeyError(number)
        return mask

    def __iter__(self) -> Iterator[int]:
        return iter(self._descriptors())

    def _descriptors(self) -> list[int]:
        """Return the registered descriptors in the order of registration."""
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

    def __getstate__(self) -> NoReturn:
        """Raise TypeError for copies and pickles, even if a subclass restores __reduce_ex__()."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


def _refuse(fd: int, eventmask: int, overflow: OverflowError | None = None) -> NoReturn:
    """Raise the exception for arguments that the C code or cffi has found to be out of range.

    Range checks happen in C, which saves 28 of 210 ns per register() on CPython 3.11.
    """
    try:
        descriptor(fd)
        event_mask(eventmask)
    except (ValueError, OverflowError) as out_of_range:
        raise out_of_range from None
    assert overflow is not None
    raise overflow  # raised by a signal handler


def _run_handlers() -> None:
    """Run the handlers of signals that have arrived."""
    # CPython runs them at every call. PyPy 7.3.11 runs them in compiled code only at the end of a
    # loop body, and sometimes not even there. This system call always runs them.
    if _PYPY:
        signal.pthread_sigmask(signal.SIG_BLOCK, ())


# As in the select module.
poll = Poll


def poll_fd(
    fd: pypoll.types.FileDescriptorLike,
    eventmask: pypoll.types.SupportsIndex = DEFAULT_MASK,
    timeout: pypoll.types.Timeout = None,
    /,
) -> int:
    """Wait until one descriptor is ready, and return its events, or 0 after a timeout.

    This creates no poll object. Arguments and exceptions are those of Poll.register() and
    Poll.poll(), and signals are handled as in Poll.poll(). Any number of threads can wait for the
    same descriptor.

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
    # One argument instead of two saves 40 of 540 ns per call on CPython 3.11.
    packed = fd * 65536 + eventmask
    if timeout is _ZERO:
        answer = _check_one(packed)
    else:
        answer = _wait_one(packed, NO_LIMIT if timeout is None else nanoseconds(timeout))
    while answer <= _INTERRUPTED:
        _run_handlers()
        answer = _wait_one(packed, answer)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer


def _signal_numbers(sigmask: Iterable[int]) -> bytes:
    """Return the signal numbers in a mask, with the same checks as signal.pthread_sigmask()."""
    numbers = set()
    try:
        items = iter(sigmask)
    except TypeError:
        raise TypeError(
            f"sigmask must be an iterable of signal numbers, not {shown(sigmask)}"
        ) from None
    for item in items:
        try:
            number = plain(operator.index(item))
        except TypeError:
            raise TypeError(
                f"sigmask must be an iterable of signal numbers, but it holds {shown(item)}"
            ) from None
        if not 1 <= number < signal.NSIG:
            raise ValueError(
                f"signal number {shown(number)} is out of range: expected 1 to {signal.NSIG - 1}"
            )
        if number in _VALID_SIGNALS:
            numbers.add(number)
        else:
            # Do not raise: range(1, NSIG) is valid, although the C library reserves some numbers.
            warnings.warn(
                f"invalid signal number {number}, please use valid_signals()",
                RuntimeWarning,
                stacklevel=3,
            )
    return bytes(sorted(numbers))
