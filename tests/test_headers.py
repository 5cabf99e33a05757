"""The shim under the headers of systems and processors that are not at hand, by zig's C compiler.

What is built for them cannot be run. What it holds is read from LLVM's assembly language, which is
the same for them all.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = Path(__file__).parent.parent / "pypoll" / "shim.c"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed here"
    ),
    pytest.mark.skipif(not SHIM.exists(), reason="the sources are not here"),
]

EVERYWHERE = {
    "POLLIN": 0x1,
    "POLLPRI": 0x2,
    "POLLOUT": 0x4,
    "POLLERR": 0x8,
    "POLLHUP": 0x10,
    "POLLNVAL": 0x20,
    "POLLRDNORM": 0x40,
    "POLLRDBAND": 0x80,
}
BSD = {**EVERYWHERE, "POLLWRNORM": 0x4, "POLLWRBAND": 0x100}
MACOS = {
    **BSD,
    "POLLEXTEND": 0x200,
    "POLLATTRIB": 0x400,
    "POLLNLINK": 0x800,
    "POLLWRITE": 0x1000,
    "POLLSTANDARD": 0x1FF,
}
FREEBSD = {**BSD, "POLLRDHUP": 0x4000, "POLLINIGNEOF": 0x2000, "POLLSTANDARD": 0x1FF}
MUSL = {
    **EVERYWHERE,
    "POLLWRNORM": 0x100,
    "POLLWRBAND": 0x200,
    "POLLMSG": 0x400,
    "POLLRDHUP": 0x2000,
}
LINUX = {**MUSL, "POLLREMOVE": 0x1000}
MIPS = {**LINUX, "POLLWRNORM": 0x4, "POLLWRBAND": 0x100}
SPARC = {**MIPS, "POLLMSG": 0x200, "POLLREMOVE": 0x400, "POLLRDHUP": 0x800}

# All that each must have; it must not have any other.
CONSTANTS = {
    "aarch64-macos": MACOS,
    "x86_64-macos": MACOS,
    "aarch64-freebsd": FREEBSD,
    "x86_64-freebsd": FREEBSD,
    "x86_64-netbsd": BSD,
    "x86_64-openbsd": BSD,
    "aarch64-linux-gnu": LINUX,
    "mips64el-linux-gnuabi64": MIPS,
    "s390x-linux-gnu": LINUX,
    "sparc64-linux-gnu": SPARC,
    "x86_64-linux-gnu": LINUX,
    "x86_64-linux-musl": MUSL,
    # Of 32 bits, where no more than a word can be read or written at once.
    "mipsel-linux-gnueabihf": MIPS,
    "x86-linux-gnu": LINUX,
}
WITHOUT_PPOLL = {"aarch64-macos", "x86_64-macos"}

PROGRAM = """
#include <stdio.h>
#include "shim.h"

int main(void)
{
    static pypoll_set set;
    const struct pypoll_constant *constant;

    if (pypoll_register(&set, 0, 1) != 0)
        return 1;
    if (pypoll_check(&set) < 0 || pypoll_wait_masked(&set, 0, NULL, 0) < 0)
        return 2;
    for (constant = pypoll_constants(); constant->name != NULL; constant++)
        printf("%s %d\\n", constant->name, constant->value);
    return 0;
}
"""


def compiled(target: str, *arguments: str | Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=c99", "-pthread"),
            *("-Wall", "-Wextra", "-Wpedantic", '-DPYPOLL_VERSION="0"', f"-I{SHIM.parent}"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, f"{target}: {ran.stderr}"


def program(target: str, directory: Path) -> Path:
    """Return the program that is built for the target, without a warning."""
    source = directory / "program.c"
    source.write_text(PROGRAM, "utf-8")
    # Otherwise zig compiles the whole of musl.
    shared = ["-dynamic"] if target.endswith("musl") else []
    compiled(target, "-Werror", "-O2", SHIM, source, "-o", directory / "program", *shared)
    return directory / "program"


def assembly(target: str, directory: Path) -> str:
    """Return the shim in LLVM's assembly language, with nothing optimized."""
    # Not an error in this one: zig warns of an argument that it has itself put in.
    compiled(target, "-S", "-emit-llvm", "-O0", SHIM, "-o", directory / "shim.ll")
    return (directory / "shim.ll").read_text("utf-8")


def table(shim: str) -> dict[str, int]:
    """Return the table of constants that the shim holds."""
    strings = dict(re.findall(r'^@(\S+) = .* c"(\w+)\\00"', shim, re.MULTILINE))
    found = re.findall(r"^@constants = .*$", shim, re.MULTILINE)
    entries = re.findall(r"\{ ptr @(\S+), i32 (\d+)\b", found[0])
    return {strings[name]: int(value) for name, value in entries}


@pytest.mark.parametrize("target", CONSTANTS)
def test_a_program_with_the_shim_compiles_without_a_warning_and_links(
    target: str, tmp_path: Path
) -> None:
    assert program(target, tmp_path).stat().st_size


@pytest.mark.parametrize("target", CONSTANTS)
def test_the_shim_has_just_the_constants_of_the_system_and_their_values(
    target: str, tmp_path: Path
) -> None:
    assert table(assembly(target, tmp_path)) == CONSTANTS[target]


@pytest.mark.parametrize("target", CONSTANTS)
def test_the_shim_uses_ppoll_wherever_the_system_has_it(target: str, tmp_path: Path) -> None:
    shim = assembly(target, tmp_path)
    has_ppoll = re.findall(r"@pypoll_has_ppoll\(.*?ret i32 (\d)", shim, re.DOTALL)
    called = set(re.findall(r'@(?:"\\01_)?(p?poll)\b"?\(', shim))
    if target in WITHOUT_PPOLL:
        assert (has_ppoll, called) == (["0"], {"poll"})
    else:
        assert has_ppoll == ["1"]
        assert "ppoll" in called


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="for x86-64 Linux with glibc"
)
def test_what_is_read_is_what_a_program_prints(tmp_path: Path) -> None:
    target = "x86_64-linux-gnu"
    ran = subprocess.run(
        [program(target, tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    printed = {name: int(value) for name, value in map(str.split, ran.stdout.splitlines())}
    assert printed == table(assembly(target, tmp_path))
