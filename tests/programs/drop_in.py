"""A program written for the select module that imports pypoll under that name."""

import os

import pypoll as select

reading, writing = os.pipe()
poller = select.poll()
poller.register(reading)
poller.register(writing, select.POLLOUT)
assert poller.poll(0) == [(writing, select.POLLOUT)]
poller.modify(writing, 0)
assert poller.poll(0) == []
os.write(writing, b"x")
for fd, event in poller.poll():
    assert fd == reading
    assert event & select.POLLIN
    assert not event & (select.POLLPRI | select.POLLERR | select.POLLHUP | select.POLLNVAL)
poller.unregister(reading)
assert poller.poll(1) == []
print("done")
