"""Ask a question and wait ten seconds for the answer, with poll_fd().

python examples/ask.py [SECONDS]
"""

from __future__ import annotations

import sys

import pypoll


def answer(question: str, seconds: float) -> str | None:
    """Return the line that is typed, or None if time runs out."""
    print(question, end=" ", flush=True)
    # poll_fd() does not see input that sys.stdin has buffered. So far it has buffered nothing.
    if pypoll.poll_fd(sys.stdin, pypoll.POLLIN, 1000 * seconds):
        return sys.stdin.readline().rstrip("\n")
    return None


def main() -> None:
    """Ask, and print the answer."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 10.0
    name = answer("Your name?", seconds)
    print("Never mind." if name is None else f"Hello, {name}!")


if __name__ == "__main__":
    main()
