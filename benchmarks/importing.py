"""What `import pypoll` takes, over the import of cffi's own module.

    python benchmarks/importing.py

Fresh processes take turns; what is shown is processor time, which other work on the machine
disturbs less than the clock on the wall.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 60
CFFI = "import _cffi_backend"
PYPOLL = "import _cffi_backend, pypoll"


def milliseconds(program: str, directory: str) -> float:
    """Return the processor time of a new interpreter that runs the program."""
    process = subprocess.Popen([sys.executable, "-I", "-c", program], cwd=directory)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program!r} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def main() -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {CFFI: [], PYPOLL: []}
    with tempfile.TemporaryDirectory() as directory:
        for program in times:
            milliseconds(program, directory)  # compiles what has not been
        for _ in range(ROUNDS):
            for program, taken in times.items():
                taken.append(milliseconds(program, directory))
    added = [both - cffi for cffi, both in zip(times[CFFI], times[PYPOLL])]
    for name, taken in [("cffi", times[CFFI]), ("cffi and pypoll", times[PYPOLL])]:
        print(f"{name}: {statistics.median(taken):.1f} ms, at best {min(taken):.1f}")
    print(f"pypoll adds {statistics.median(added):.1f} ms (median of {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
