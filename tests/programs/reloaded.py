"""Forks after a second import. Fork handlers registered twice would take each lock twice."""

import importlib
import os
import signal

import pypoll.library

importlib.reload(pypoll.library)
signal.alarm(20)
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0) == (child, 0)
