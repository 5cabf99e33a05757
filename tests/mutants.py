"""Changes pypoll one operator or constant at a time, and tells which changes the tests notice.

    python tests/mutants.py --count 60 --seed 1 poller selector timeouts descriptors

Needs pypoll and its tests' requirements installed; the installed package is copied, not changed.
A mutant that hangs counts as killed. Some survivors change nothing that anybody could notice.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pypoll

TESTS = Path(__file__).parent
# The quick test files of each module, the likeliest to notice first.
CONCERNED = {
    "poller": "arguments extensions results signals threads hostile_objects lifetime timeouts",
    "selector": "selector selector_hangups selector_races selector_threads "
    "messages hostile_objects lifetime",
    "timeouts": "timeouts selector hostile_objects",
    "descriptors": "arguments selector messages hostile_objects",
}
Nodes = list[tuple[type[ast.AST], type[ast.AST]]]
SWAPS: Nodes = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot)]
SWAPS += [(ast.In, ast.NotIn), (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.FloorDiv)]
SWAPS += [(ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift), (ast.USub, ast.UAdd)]
OPERATORS = {**dict(SWAPS), **{b: a for a, b in SWAPS}, ast.Invert: ast.UAdd}


def mutate(tree: ast.Module, number: int) -> ast.AST | None:
    """Mutate the place of this number; return its node, or None if there is none."""
    for count, (node, field, index) in enumerate(places(tree)):
        if count == number:
            old = getattr(node, field)
            if isinstance(node, ast.Constant):
                node.value = not old if isinstance(old, bool) else old + 1
            elif index is None:
                setattr(node, field, OPERATORS[type(old)]())
            else:
                old[index] = OPERATORS[type(old[index])]()
            return node
    return None


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yield what can be changed, as a node, a field of it, and an index if that is a list."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            yield node, "value", None
        elif isinstance(node, ast.Compare):
            for index in range(len(node.ops)):
                yield node, "ops", index
        elif type(getattr(node, "op", None)) in OPERATORS and not isinstance(node, ast.AugAssign):
            yield node, "op", None


def survives(package: Path, names: str, limit: float) -> bool:
    files = [f"test_{name}.py" for name in names.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    # Its own session: what a mutant leaves hanging may have children.
    process = subprocess.Popen(
        command,
        cwd=TESTS,  # where no source tree hides the copy
        env={**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="mutants in all (60)")
    parser.add_argument("--seed", type=int, default=1, help="chooses them (1)")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(CONCERNED)} (all)")
    options = parser.parse_args()
    modules = options.modules or list(CONCERNED)
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory, "pypoll")
        shutil.copytree(Path(pypoll.__file__).parent, package)
        trees = {name: ast.parse((package / f"{name}.py").read_text()) for name in modules}
        mutants = [(name, n) for name, tree in trees.items() for n, _ in enumerate(places(tree))]
        chosen = random.Random(options.seed).sample(mutants, min(options.count, len(mutants)))
        limits = {}
        for name in modules:
            begun = time.monotonic()
            assert survives(package, CONCERNED[name], 1200), f"the tests of {name} fail as it is"
            limits[name] = 60 + 3 * (time.monotonic() - begun)
        survivors = 0
        for name, number in sorted(chosen):
            tree, path = copy.deepcopy(trees[name]), package / f"{name}.py"
            original = path.read_text()
            node = mutate(tree, number)
            path.write_text(ast.unparse(tree))
            alive = survives(package, CONCERNED[name], limits[name])
            path.write_text(original)
            survivors += alive
            line: int = getattr(node, "lineno", 1)
            code = original.splitlines()[line - 1].strip()
            print("survived" if alive else "killed  ", f"{name}.py:{line}:", code, flush=True)
    print(f"{len(chosen)} mutants: {len(chosen) - survivors} killed, {survivors} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
