"""Changes one operator or constant of pypoll at a time, and tells which changes the tests detect.

    python tests/mutants.py --count 60 --seed 1 poller selector timeouts descriptors

Changes a copy of the installed package. A mutant that hangs counts as killed. Some survivors behave
like the original.
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
from typing import Any

import pypoll

TESTS = Path(__file__).parent
# The fast test files of each module. Those that are most likely to fail come first.
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


def places(tree: ast.Module) -> Iterator[tuple[Any, int]]:
    """Yield the nodes that can be mutated, each with the index of the operator in a comparison."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from ((node, index) for index in range(len(node.ops)))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, (bool, int)):
                yield node, 0
        elif type(getattr(node, "op", None)) in OPERATORS and not isinstance(node, ast.AugAssign):
            yield node, 0


def mutate(node: Any, index: int) -> None:
    if hasattr(node, "ops"):
        node.ops[index] = OPERATORS[type(node.ops[index])]()
    elif hasattr(node, "op"):
        node.op = OPERATORS[type(node.op)]()
    else:
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1


def survives(package: Path, names: str, limit: float) -> bool:
    files = [f"test_{name}.py" for name in names.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    # In a session of its own, so that children of a mutant that hangs are killed as well.
    process = subprocess.Popen(
        command,
        cwd=TESTS,  # where no source tree takes the place of the copy
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
    parser.add_argument("--count", type=int, default=60, help="number of mutants (60)")
    parser.add_argument("--seed", type=int, default=1, help="seed of their choice (1)")
    parser.add_argument("modules", nargs="*", help=f"default: {' '.join(CONCERNED)}")
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
            assert survives(package, CONCERNED[name], 1200), f"the tests of {name} fail anyway"
            limits[name] = 60 + 3 * (time.monotonic() - begun)
        survivors = 0
        for name, number in sorted(chosen):
            tree, path = copy.deepcopy(trees[name]), package / f"{name}.py"
            original = path.read_text()
            node, index = list(places(tree))[number]
            mutate(node, index)
            path.write_text(ast.unparse(tree))
            alive = survives(package, CONCERNED[name], limits[name])
            path.write_text(original)
            survivors += alive
            code = original.splitlines()[node.lineno - 1].strip()
            outcome = "survived" if alive else "killed  "
            print(outcome, f"{name}.py:{node.lineno}:", code, flush=True)
    print(f"{len(chosen)} mutants: {len(chosen) - survivors} killed, {survivors} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
