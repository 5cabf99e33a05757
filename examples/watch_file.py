"""Print a file in /proc or /sys each time it changes, which POLLPRI reports.

    python examples/watch_file.py /proc/self/mountinfo
    python examples/watch_file.py /sys/class/gpio/gpio17/value

Some of these files support it: GPIO values, hwmon alarms, the list of mounts. After a change, the
kernel reports POLLPRI and POLLERR until the file is read again from the beginning. Files on disk
never report POLLPRI.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pypoll


def contents(path: str) -> Iterator[bytes]:
    """Yield the contents of the file now, and after each change."""
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            os.lseek(fd, 0, os.SEEK_SET)
            content = b""
            while chunk := os.read(fd, 65536):
                content += chunk
            yield content
            pypoll.poll_fd(fd, pypoll.POLLPRI)
    finally:
        os.close(fd)


def main() -> None:
    """Print until Ctrl-C."""
    if len(sys.argv) != 2:
        sys.exit("usage: watch_file.py FILE")
    for content in contents(sys.argv[1]):
        sys.stdout.write(content.decode(errors="replace"))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
