"""Ask a question, and wait ten seconds for the answer: poll_fd() waits for one descriptor.

python examples/ask.py [SECONDS]
"""

from __future__ import annotations

import sys

import pypoll


def answer(question: str, seconds: float) -> str | None:
    """Return the line that was typed, or None if there was none in time."""
    print(question, end=" ", flush=True)
    # A line may be there at once: input() would return it. poll_fd() sees what is still unread.
    if pypoll.poll_fd(sys.stdin, pypoll.POLLIN, 1000 * seconds):
        return sys.stdin.readline().rstrip("\n")
    return None


def main() -> None:
    """Ask, and print what came."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 10.0
    name = answer("Your name?", seconds)
    print("Never mind." if name is None else f"Hello, {name}!")


if __name__ == "__main__":
    main()
