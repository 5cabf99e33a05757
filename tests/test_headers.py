"""The shim compiles against the headers of other systems and processors, with zig's C compiler.

The results cannot run here. LLVM assembly shows what they contain, in the same way for all.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs_package

SHIM = Path(__file__).parent.parent / "pypoll" / "shim.c"

pytestmark = [
    needs_package("ziglang"),
    pytest.mark.skipif(not SHIM.exists(), reason="the C sources are not here"),
]

EVERYWHERE = {"POLLIN": 0x1, "POLLPRI": 0x2, "POLLOUT": 0x4, "POLLERR": 0x8, "POLLHUP": 0x10}
EVERYWHERE |= {"POLLNVAL": 0x20, "POLLRDNORM": 0x40, "POLLRDBAND": 0x80}
BSD = {**EVERYWHERE, "POLLWRNORM": 0x4, "POLLWRBAND": 0x100}
MACOS = {**BSD, "POLLEXTEND": 0x200, "POLLATTRIB": 0x400, "POLLNLINK": 0x800, "POLLWRITE": 0x1000}
MACOS |= {"POLLSTANDARD": 0x1FF}
FREEBSD = {**BSD, "POLLRDHUP": 0x4000, "POLLINIGNEOF": 0x2000, "POLLSTANDARD": 0x1FF}
MUSL = {**EVERYWHERE, "POLLWRNORM": 0x100, "POLLWRBAND": 0x200, "POLLMSG": 0x400}
MUSL |= {"POLLRDHUP": 0x2000}
LINUX = {**MUSL, "POLLREMOVE": 0x1000}
MIPS = {**LINUX, "POLLWRNORM": 0x4, "POLLWRBAND": 0x100}
SPARC = {**MIPS, "POLLMSG": 0x200, "POLLREMOVE": 0x400, "POLLRDHUP": 0x800}

# The constants of each target: all of them, and no others.
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
    # 32-bit processors, which may lack 64-bit atomic operations.
    "mipsel-linux-gnueabihf": MIPS,
    "x86-linux-gnu": LINUX,
}

PROGRAM = """
#include "shim.h"

int main(void)
{
    static pypoll_set set;

    return pypoll_register(&set, 0, 1) != 0 || pypoll_wait_masked(&set, 0, NULL, 0) < 0;
}
"""


def compiled(target: str, output: Path, *arguments: str | Path) -> Path:
    """Return the output of zig's C compiler."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=c99", "-pthread"),
            *("-Wall", "-Wextra", "-Wpedantic", '-DPYPOLL_VERSION="0"', f"-I{SHIM.parent}"),
            *map(str, [SHIM, *arguments, "-o", output]),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    return output


@pytest.mark.parametrize("target", CONSTANTS)
def test_a_program_with_the_shim_compiles_without_a_warning_and_links(
    target: str, tmp_path: Path
) -> None:
    source = tmp_path / "program.c"
    source.write_text(PROGRAM, "utf-8")
    # Otherwise zig compiles the whole of musl.
    shared = ["-dynamic"] if target.endswith("musl") else []
    assert compiled(target, tmp_path / "program", source, "-Werror", "-O2", *shared).stat().st_size


@pytest.mark.parametrize("target", CONSTANTS)
def test_the_shim_has_the_constants_of_the_system_and_calls_ppoll_if_the_system_has_it(
    target: str, tmp_path: Path
) -> None:
    # Without -Werror, because zig itself adds an argument that it then warns about.
    assembly = compiled(target, tmp_path / "shim.ll", "-S", "-emit-llvm", "-O0").read_text("utf-8")
    names = dict(re.findall(r'^@(\S+) = .* c"(\w+)\\00"', assembly, re.MULTILINE))
    (table,) = re.findall(r"^@constants = .*$", assembly, re.MULTILINE)
    entries = re.findall(r"\{ ptr @(\S+), i32 (\d+)\b", table)
    assert {names[name]: int(value) for name, value in entries} == CONSTANTS[target]

    has_ppoll = re.findall(r"@pypoll_has_ppoll\(.*?ret i32 (\d)", assembly, re.DOTALL)
    called = set(re.findall(r'@(?:"\\01_)?(p?poll)\b"?\(', assembly))
    if target.endswith("macos"):
        assert (has_ppoll, called) == (["0"], {"poll"})
    else:
        assert (has_ppoll, called) == (["1"], {"poll", "ppoll"})
