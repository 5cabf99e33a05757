"""What another thread does in the middle of a selector's call is neither lost nor reported late.

Its moments are fixed here: a Poll of the test's own acts after a method of it has returned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable

import pytest

import pypoll
from pypoll import EVENT_READ, EVENT_WRITE, PollSelector
from pypoll.selector import _Pairs


class SteeredPoll(pypoll.Poll):
    """Acts once after it has registered, modified, unregistered or polled."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: dict[str, Callable[[], object]] = {}

    def act(self, method: str) -> None:
        self.actions.pop(method, int)()

    def register(self, *arguments: Any) -> None:
        super().register(*arguments)
        self.act("register")

    def modify(self, *arguments: Any) -> None:
        super().modify(*arguments)
        self.act("modify")

    def unregister(self, *arguments: Any) -> None:
        super().unregister(*arguments)
        self.act("unregister")

    def poll(self, *timeout: Any) -> list[tuple[int, int]]:
        found = super().poll(*timeout)
        self.act("poll")
        return found


class SteeredSelector(PollSelector):
    _selector_cls = SteeredPoll
    _selector: SteeredPoll

    def after(self, method: str, action: Callable[[], object]) -> None:
        self._selector.actions[method] = action


@pytest.fixture
def steered() -> Iterator[SteeredSelector]:
    with SteeredSelector() as selector:
        yield selector


def test_what_is_unregistered_after_the_wait_is_not_reported(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_WRITE)
    steered.after("poll", lambda: steered.unregister(writing))
    assert steered.select(0) == []
    assert steered.select(0) == []


def test_what_is_modified_after_the_wait_is_reported_as_what_it_is_by_then(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_WRITE)
    steered.after("poll", lambda: steered.modify(writing, EVENT_READ))
    assert steered.select(0) == []


def test_a_key_that_is_modified_twice_at_once_has_the_set_follow_the_later_one(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_READ)
    steered.after("modify", lambda: steered.modify(writing, EVENT_WRITE, "later"))
    steered.modify(writing, EVENT_READ, "earlier")
    steered.modify(writing, EVENT_READ | EVENT_WRITE, "earlier")
    assert steered.get_key(writing).data == "later"
    assert [(key.data, events) for key, events in steered.select(0)] == [("later", EVENT_WRITE)]


def test_what_is_unregistered_while_it_is_modified_stays_out_of_the_set(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_READ)
    steered.after("modify", lambda: steered.unregister(writing))
    steered.modify(writing, EVENT_WRITE)
    assert steered.select(0) == []
    assert len(steered._selector) == len(steered.get_map()) == 0
    assert steered.get_map().get(writing) is None


def test_what_two_threads_unregister_at_once_is_unregistered_once(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_WRITE)
    steered.after("unregister", lambda: steered.unregister(writing))
    with pytest.raises(KeyError, match="is not registered"):
        steered.unregister(writing)
    assert steered.select(0) == []


def test_what_a_select_puts_back_while_it_is_unregistered_leaves_the_set(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_WRITE)
    steered.after("unregister", lambda: steered.select(0))
    steered.unregister(writing)
    assert steered.select(0) == []
    assert len(steered._selector) == 0


def test_a_change_that_is_cut_off_is_made_up_by_the_next_select(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe

    def fail() -> None:
        raise KeyboardInterrupt

    steered.after("register", fail)
    with pytest.raises(KeyboardInterrupt):
        steered.register(reading, EVENT_READ)
    steered.register(writing, EVENT_WRITE)
    steered.after("unregister", fail)
    with pytest.raises(KeyboardInterrupt):
        steered.unregister(writing)
    assert [key.fd for key, _ in steered.select(0)] == [writing]
    assert list(steered._selector) == list(steered.get_map()) == [writing]


def test_a_paused_file_object_can_be_unregistered(
    steered: SteeredSelector, pipe: tuple[int, int]
) -> None:
    _, writing = pipe
    steered.register(writing, EVENT_WRITE)
    steered.modify(writing, 0)
    assert steered.unregister(writing).events == 0
    assert steered.select(0) == []


def test_the_end_of_a_pause_may_be_what_makes_the_set_grow(pipe: tuple[int, int]) -> None:
    """The first eight descriptors need no memory of their own."""
    _, writing = pipe
    fds = [os.dup(writing) for _ in range(9)]
    with PollSelector() as selector:
        for fd in fds:
            selector.register(fd, EVENT_WRITE)
            if fd == fds[0]:
                selector.modify(fd, 0)
        assert [key.fd for key, _ in selector.select(0)] == fds[1:]
        selector.modify(fds[0], EVENT_WRITE)
        assert [key.fd for key, _ in selector.select(0)] == [*fds[1:], fds[0]]
    for fd in fds:
        os.close(fd)


def test_no_pair_is_kept_that_reports_nothing(pipe: tuple[int, int]) -> None:
    """By a private name: a key would have to change between two instructions of select()."""
    reading, _ = pipe
    with PollSelector() as selector:
        selector.register(reading, EVENT_READ)
        pairs = _Pairs(selector._fd_to_key)
        with pytest.raises(KeyError):
            pairs[reading, pypoll.POLLOUT]
        assert dict(pairs) == {}
