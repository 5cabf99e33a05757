"""Calls functions in new interpreters: with a memory layout and a hash seed of their own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any, Callable


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what the function, which a module here must have, returns in a process of its own."""
    ran = subprocess.run(
        [sys.executable, __file__],
        input=pickle.dumps((function, arguments)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return pickle.loads(ran.stdout)


if __name__ == "__main__":
    function, arguments = pickle.load(sys.stdin.buffer)
    pickle.dump(function(*arguments), sys.stdout.buffer)
