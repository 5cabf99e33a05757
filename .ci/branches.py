"""Lines and branches of a C source that no measured run has reached, by gcov.

    python .ci/branches.py SOURCE DIRECTORY...

Adds up what all .gcda files below the directories tell of the source, and exits with 1 if a line
of it was never reached, or a branch never taken. Forms of it that were compiled with other macros
need to have been there too: a line counts as reached if it was in one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path


def main(source: Path, directories: list[str]) -> int:
    """Print what was not reached, and return the exit status."""
    text = source.read_text(encoding="utf-8").splitlines()
    lines: Counter[int] = Counter()
    # By line, how many branches it has where it was compiled so, and which of them this is.
    branches: Counter[tuple[int, int, int]] = Counter()
    measured = [found for directory in directories for found in Path(directory).rglob("*.gcda")]
    for path in measured:
        told = subprocess.run(
            ["gcov", "--json-format", "--stdout", "--branch-probabilities", path.name],
            cwd=path.parent,
            check=True,
            capture_output=True,
        )
        for file in json.loads(told.stdout)["files"]:
            if Path(file["file"]).name != source.name:
                continue
            for line in file["lines"]:
                number, outcomes = line["line_number"], line["branches"]
                lines[number] += line["count"]
                for index, outcome in enumerate(outcomes):
                    branches[number, len(outcomes), index] += outcome["count"]
    for number in sorted(lines):
        of_line = {key: count for key, count in branches.items() if key[0] == number}
        if lines[number] == 0 or 0 in of_line.values():
            missed = ", ".join(f"branch {key[2]}" for key, count in of_line.items() if count == 0)
            print(f"{source}:{number}: {text[number - 1].strip()}  <- {missed or 'never reached'}")
    whole = bool(lines) and 0 not in (*lines.values(), *branches.values())
    shown = "all" if whole else "not all"
    print(
        f"{shown} of the {len(lines)} lines and {len(branches)} branches of {source} "
        f"were reached, by {len(measured)} measurements"
    )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
