"""What the Dockerfile makes, made without an engine: an interpreter, our locked dependencies, our wheel, as layers of an image.

The interpreter is the one that runs the tests, with the libraries that it and the packages are linked with; the packages are
those installed beside it, which are what the lock says; the loader is there too, for pods of tests. The lower layer takes
seconds and 300 MB: it is kept in `.tools/images`, named by what it holds. Bytecode is packed as well: pods have a read-only
root and would compile at every start.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata as metadata
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from cluster import images

HOUSE = Path(__file__).resolve().parents[2]
KEPT = HOUSE / ".tools" / "images"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE = PurePosixPath(f"usr/local/lib/{_VERSION}/site-packages")
_UNUSED = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
_ENV = ("PATH=/usr/local/bin:/usr/bin:/bin", "LD_LIBRARY_PATH=/usr/local/lib", "PYTHONUNBUFFERED=1")
_USERS = "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n"
_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
_WARMED = (
    "import kubernetes.aio.client, kubernetes.aio.config, grpc.aio, cryptography.x509, aiohttp, boto3, uvloop, rich, click, yaml"
)


def write(path: Path, name: str) -> Path:
    """The image under `name`, which runs `prestage`. Returns `path`."""
    own = upper(path.with_suffix(".upper"))
    images.write_layers(path, name, ["/usr/local/bin/prestage"], [lower(), own], env=_ENV, user="65532:65532")
    own.unlink()
    return path


def requirements() -> dict[str, metadata.Distribution]:
    """What `prestage[daemonset]` and the loader need, by name: what the image holds beside our own."""
    found: dict[str, metadata.Distribution] = {}

    def visit(name: str, extras: tuple[str, ...] = ()) -> None:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found and not extras:
            return
        found[key] = here = metadata.distribution(name)
        for line in here.requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                visit(need.name, tuple(need.extras))

    visit("prestage", ("daemonset",))
    visit("prestage-loader")
    return {name: one for name, one in sorted(found.items()) if not name.startswith("prestage")}


def lower() -> Path:
    """Interpreter, libraries, packages; packed once."""
    needed = requirements()
    named = "".join(f"{name}=={one.version}\n" for name, one in needed.items())
    seed = f"{sys.version}{named}{Path(__file__).read_text()}"
    path = KEPT / f"{hashlib.sha256(seed.encode()).hexdigest()[:16]}.tar"
    if path.exists():
        return path
    KEPT.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", _WARMED], check=True, timeout=300)
    with tempfile.NamedTemporaryFile(dir=KEPT, delete=False) as partial, tarfile.open(fileobj=partial, mode="w") as tar:
        _pack_lower(tar, needed)
    Path(partial.name).rename(path)
    for old in KEPT.glob("*.tar"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def upper(path: Path) -> Path:
    """Our own wheels, as an installer lays them out. Returns `path`."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, tarfile.open(path, "w") as tar:
        wheels, site = Path(folder) / "wheels", Path(folder) / "site"
        for project in (HOUSE, HOUSE / "loader-lib"):
            argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
            subprocess.run(argv, cwd=project, check=True, capture_output=True, timeout=120)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site)
        compileall.compile_dir(site, quiet=1, stripdir=str(site), prependdir=f"/{_SITE}")
        for file in _files(site):
            _add(tar, file, _SITE / file.relative_to(site))
        for name, target in _scripts(site):
            module, _, attribute = target.partition(":")
            _write(tar, f"usr/local/bin/{name}", f"#!/usr/local/bin/python3\nfrom {module} import {attribute}\n\n{attribute}()\n")
    return path


def _scripts(site: Path) -> Iterator[tuple[str, str]]:
    for one in metadata.distributions(path=[str(site)]):
        for point in one.entry_points.select(group="console_scripts"):
            yield point.name, point.value


def _pack_lower(tar: tarfile.TarFile, needed: dict[str, metadata.Distribution]) -> None:
    for folder, mode in (("tmp", 0o1777), *((name, 0o755) for name in ("bin", "etc", "proc", "sys", "dev", "run", "mnt"))):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        tar.addfile(entry)
    linked = [interpreter := Path(sys.executable).resolve()]
    _add(tar, interpreter, PurePosixPath("usr/local/bin/python3"))
    stdlib = Path(sysconfig.get_path("stdlib"))
    for file in _files(stdlib):
        parts = file.relative_to(stdlib).parts
        if not _UNUSED.intersection(parts) and not parts[0].startswith("config-"):
            _add(tar, file, PurePosixPath(f"usr/local/lib/{_VERSION}", *parts))
            linked += [file] if file.suffix == ".so" else []
    for one in needed.values():
        for packed in one.files or ():
            place = Path(str(one.locate_file(packed)))
            if not place.is_file() or ".." in packed.parts or packed.suffix == ".pyc":
                continue
            _add(tar, place, _SITE / packed)
            linked += [place] if ".so" in packed.name else []
            bytecode = Path(cache_from_source(str(place)))
            if packed.suffix == ".py" and bytecode.exists():
                _add(tar, bytecode, _SITE / packed.parent / "__pycache__" / bytecode.name)
    for library in _libraries(linked):
        inside = str(library).startswith(("/lib", "/usr/lib"))
        _add(tar, library, PurePosixPath(str(library)[1:] if inside else f"usr/local/lib/{library.name}"))
    _add(tar, images.BUSYBOX, PurePosixPath("bin/busybox"))
    _link(tar, "bin/sh", "busybox")
    if _TRUSTED.exists():
        _add(tar, _TRUSTED, PurePosixPath(str(_TRUSTED)[1:]))
    _write(tar, "etc/passwd", _USERS)


def _libraries(programs: list[Path]) -> Iterator[Path]:
    """What they are linked with, once each, by the paths that the loader looks at."""
    seen = set[str]()
    for start in range(0, len(programs), 50):
        said = subprocess.run(
            ["ldd", *programs[start : start + 50]], capture_output=True, text=True, check=False, timeout=60
        ).stdout
        for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", said, re.MULTILINE):
            if path not in seen and ".libs/" not in path and "/site-packages/" not in path:
                seen.add(path)
                yield Path(path)


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            yield Path(folder) / name


def _add(tar: tarfile.TarFile, source: Path, place: PurePosixPath) -> None:
    """A copy that everybody may read; its time stays, for bytecode is known by it."""
    with source.open("rb") as data:
        entry = tarfile.TarInfo(str(place))
        seen = os.fstat(data.fileno())
        entry.size, entry.mtime, entry.mode = seen.st_size, int(seen.st_mtime), 0o755 if seen.st_mode & 0o111 else 0o644
        tar.addfile(entry, data)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _write(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755 if "/bin/" in name else 0o644
    tar.addfile(entry, io.BytesIO(text.encode()))
