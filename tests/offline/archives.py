"""The per-user cache of the built world: one zip archive a family, rebuilt when its sources or libraries change.

An archive appears in one step and is checked (CRC-32 of every file) whenever it is unpacked, so that a build that
crashed leaves nothing and a damaged archive is built again.
"""
from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import platformdirs
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path(__file__).resolve().parent / "families"
KEPT = 3  # archives of a family that stay: two branches or two Pythons do not push each other out
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn",
                 "yaml": "pyyaml"}  # where the name to import is not the name to install


class BuildError(RuntimeError):
    """A family of the world that could not be built; the message names it and holds the end of its output."""


def folder() -> Path:
    """The cache: MCVP_CACHE where it is set, else a folder of the user's own cache."""
    chosen = os.environ.get("MCVP_CACHE")
    return Path(chosen).resolve() if chosen else platformdirs.user_cache_path("mcvp-offline", appauthor=False)


def families() -> list[str]:
    """The names of all families: the modules of the folder `families`."""
    return sorted(path.stem for path in FAMILIES.glob("[!_]*.py"))


def imports(source: Path) -> set[str]:
    """Dotted names of everything a source file imports, at any depth (`a.b` and `a.b.c` for `from a.b import c`)."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def sources_and_libraries(module: Path, root: Path = ROOT) -> tuple[list[Path], list[str]]:
    """What a family is made of: the files it imports from `root`, itself included, and the libraries they import."""
    files, libraries, waiting = {module}, set(), [module]
    while waiting:
        for name in imports(waiting.pop()):
            top = name.partition(".")[0]
            if not (root / top).is_dir():
                libraries.add(top)
                continue
            path = root.joinpath(*name.split("."))
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file() and candidate not in files and candidate != Path(__file__):
                    files.add(candidate)
                    waiting.append(candidate)
    return sorted(files), sorted(libraries - set(sys.stdlib_module_names))


def version(library: str) -> str:
    """The installed version of the library that is imported as `library`, `absent` where there is none."""
    try:
        return metadata.version(DISTRIBUTIONS.get(library, library))
    except metadata.PackageNotFoundError:
        return "absent"


def key(family: str) -> str:
    """Sixteen hex digits that change with the family's sources and with the versions of the libraries they import."""
    files, libraries = sources_and_libraries(FAMILIES / f"{family}.py")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes().replace(b"\r\n", b"\n"))
    for library in libraries:
        digest.update(f"\0{library}=={version(library)}".encode())
    return digest.hexdigest()[:16]


def archive(family: str) -> Path:
    """Where the family's archive for the present sources and libraries lies, built or not."""
    return folder() / f"{family}-{key(family)}.zip"


def build(target: Path, family: str) -> None:
    """Build one family in a process of its own, with the network closed, and put its archive at `target` in one step.

    Raises BuildError, with the end of what the process printed, where it fails.
    """
    from tests.offline import environment

    work = Path(tempfile.mkdtemp(prefix=f"{target.stem}-", suffix=".building", dir=target.parent))
    tree = work / "tree"
    tree.mkdir()
    command = [sys.executable, "-m", "tests.offline.families", str(FAMILIES / f"{family}.py"), str(tree)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment(work)}, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    if run.returncode:
        raise BuildError(f"the miniature world: building {family} failed (exit {run.returncode}); "
                         f"the end of its output:\n{run.stdout[-3000:]}")
    packed = work / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(tree).as_posix())
    os.replace(packed, target)
    shutil.rmtree(work, ignore_errors=True)


def build_all(names: list[str]) -> None:
    """Build the named families, as many at once as there are processors."""
    print(f"tests.offline: building {', '.join(names)} (once per machine and version)", file=sys.stderr, flush=True)
    pool = ThreadPoolExecutor(max_workers=min(len(names), os.cpu_count() or 1))
    try:
        for job in [pool.submit(build, archive(name), name) for name in names]:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def unpack(source: Path, scratch: Path) -> bool:
    """Unpack an archive below `scratch`; False where it is missing or damaged."""
    try:
        with zipfile.ZipFile(source) as file:
            file.extractall(scratch)
    except Exception:  # damaged bytes make zipfile raise errors of many kinds
        return False
    with suppress(OSError):  # in a cache that cannot be written
        os.utime(source)  # marks it as used, for clean_up
    return True


def clean_up(names: list[str]) -> None:
    """Remove what earlier builds left unfinished, and of every family all archives but the last `KEPT` used."""
    for left in folder().glob("*.building"):
        shutil.rmtree(left, ignore_errors=True)
    for name in names:
        used = sorted(folder().glob(f"{name}-*.zip"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in used[KEPT:]:
            old.unlink(missing_ok=True)


def unpack_all(scratch: Path) -> None:
    """Unpack every family below `scratch`, building first those whose archive is missing, stale or damaged.

    One process at a time does this; the others wait for it and find the work done. A cache that cannot be written (a
    teacher's share) will do where it holds everything.
    """
    names = families()
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with FileLock(folder() / "lock"):
            clean_up(names)
            stale = [name for name in names if not unpack(archive(name), scratch)]
            if stale:
                build_all(stale)
                for name in stale:
                    if not unpack(archive(name), scratch):
                        raise BuildError(f"the miniature world: {archive(name)} cannot be read back; "
                                         "is the disk full?")
    except OSError as error:
        if not all(unpack(archive(name), scratch) for name in names):
            raise BuildError(f"the miniature world: its cache {folder()} cannot be written ({error}); "
                             "name another folder in the variable MCVP_CACHE") from None
