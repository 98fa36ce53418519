"""A base image made of this machine's own Python, for building the Dockerfile where none can be pulled.

It has what the Dockerfile uses of an official `python:*-slim` image: a shell and a few commands, Python below /usr/local
with pip, without a compiled file of its library, and certificates. What pip installs comes from a folder of wheels, mounted
at WHEELS. It is good for the steps of the Dockerfile and for what its processes cost; not for the size of the image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.processes import BenchError, installed

#: Where a build finds the wheels.
WHEELS: Final = "/wheels"
#: Of the standard library, what no image needs and what is large.
_LEFT_OUT: Final = ("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "lib2to3")
_COMMANDS: Final = ("sh", "awk", "cp", "env", "find", "mkdir", "rm", "strip", "true", "xargs")


def make_root(root: Path) -> None:
    """Fill an empty folder with it. Raises BenchError."""
    for folder in ("etc", "tmp", "proc", "sys", "dev", "root", "usr/local/bin", "usr/local/lib", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
    programs = []
    for name in _COMMANDS:
        found = installed(name)
        if found is None:
            raise BenchError(f"{name} is not installed here")
        programs.append(shutil.copy2(found, root / "usr/bin" / name))
    _copy_python(root)
    _copy_libraries(root, [*map(Path, programs), *root.rglob("*.so"), root / "usr/local/bin/python"])


def _copy_python(root: Path) -> None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library, home = Path(sys.base_prefix) / "lib" / name, root / "usr/local/lib" / name
    shutil.copytree(library, home, ignore=shutil.ignore_patterns(*_LEFT_OUT, "config-*", "*.a"))
    shutil.copy2(Path(sys.base_prefix) / "bin" / name, root / "usr/local/bin" / name)
    for link in ("python", "python3"):
        (root / "usr/local/bin" / link).symlink_to(name)
    # Ours: Debian keeps pip elsewhere, and some Pythons have none.
    import pip  # noqa: PLC0415 - only here, and slow

    # With its compiled files, which official images lack: it runs three times, and compiling all of it takes longest then.
    shutil.copytree(Path(pip.__path__[0]), home / "site-packages/pip")
    script = root / "usr/local/bin/pip"
    script.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
    script.chmod(0o755)


def _copy_libraries(root: Path, programs: Iterable[Path]) -> None:
    """Copy the shared libraries that these programs and modules need, to the paths they have here."""
    needed = subprocess.run(
        [installed("ldd") or "ldd", *(path.resolve() for path in programs)], capture_output=True, text=True, check=False
    ).stdout
    for name in sorted(set(re.findall(r"(/\S+\.so\S*)", needed))):
        path = Path(name.rstrip(":"))
        if path.is_relative_to(root):
            continue
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(path.resolve(), target)
    # Wheels ask for what has been one library since glibc 2.34 by its old names, too.
    for libc in [path for path in root.rglob("libc.so.6") if not path.is_symlink()]:
        for beside in (Path("/") / libc.relative_to(root)).parent.iterdir():
            if re.fullmatch(r"lib(pthread|dl|rt|util|m|gcc_s|stdc\+\+)\.so\.\d", beside.name):
                shutil.copy2(beside.resolve(), libc.parent / beside.name)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy2(certificates, root / "etc/ssl/certs")
        for folder in (root / "usr/lib/ssl", root / "etc/ssl"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
