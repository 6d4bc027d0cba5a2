"""The per-user cache of the built world: one zip archive a family, rebuilt when its sources or libraries change.

An archive appears in one step and is checked (CRC-32 of every file) whenever it is unpacked, so that a build that
crashed leaves nothing and a damaged archive is built again. Where all that is wanted is there, nothing is written: the
cache may be somebody else's folder, such as a teacher's share.
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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import platformdirs
from filelock import FileLock

from tests.offline.variables import environment

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path(__file__).resolve().parent / "families"
BUILDING = ".b"  # ends the name of a folder in which a family is being built
KEPT = 3  # archives of a family that stay: two branches or two Pythons do not push each other out


class BuildError(RuntimeError):
    """A family of the world that could not be built; the message names it and holds the end of its output."""


def folder() -> Path:
    """The cache: MCVP_CACHE where it is set, else a folder of the user's own cache."""
    chosen = os.environ.get("MCVP_CACHE")
    return Path(chosen).resolve() if chosen else platformdirs.user_cache_path("mcvp-offline", appauthor=False)


def families() -> list[str]:
    """The names of all families: the modules of the folder `families`."""
    return sorted(path.stem for path in FAMILIES.glob("[!_]*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all that a syntax tree imports, at any depth (`a.b` and `a.b.c` for `from a.b import c`)."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def constant(family: str, name: str):
    """The literal that a family's module assigns to `name`; of a dictionary that is no literal, its keys.

    It is read from the source: importing the module would import the libraries that the family serves.
    """
    for node in ast.parse((FAMILIES / f"{family}.py").read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            if isinstance(node.value, ast.Dict):
                return [ast.literal_eval(key) for key in node.value.keys]
            return ast.literal_eval(node.value)
    raise LookupError(f"the family {family} has no {name}")


def entries(family: str) -> list[str]:
    """The names of a family's registry, the dictionary ENTRIES of its module."""
    return constant(family, "ENTRIES")


def sources_and_libraries(module: Path, root: Path = ROOT) -> tuple[list[Path], list[str]]:
    """What a family is made of: the files it imports from `root`, itself included, and the libraries they import."""
    files, libraries, waiting = {module}, set(), [module]
    while waiting:
        for name in imported(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            if not (root / top).is_dir():
                libraries.add(top)
                continue
            path = root.joinpath(*name.split("."))
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file() and candidate not in files:
                    files.add(candidate)
                    waiting.append(candidate)
    return sorted(files), sorted(libraries - set(sys.stdlib_module_names))


@cache
def distributions() -> dict[str, list[str]]:
    """Of each name that can be imported, the installed distributions that bring it."""
    return {name: sorted(set(brought_by)) for name, brought_by in metadata.packages_distributions().items()}


def version(library: str) -> str:
    """The installed version of what is imported as `library` (of all that bring it), `absent` where nothing does."""
    return " ".join(metadata.version(name) for name in distributions().get(library, ())) or "absent"


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
    # names are short, because what is built has long ones and Windows takes 259 characters
    work = Path(tempfile.mkdtemp(prefix="", suffix=BUILDING, dir=target.parent))
    tree = work / "w"
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


def build_all(targets: dict[str, Path]) -> None:
    """Build the named families, each to its target, as many at once as there are processors."""
    print(f"tests.offline: building {', '.join(targets)} (once per machine and version)", file=sys.stderr, flush=True)
    pool = ThreadPoolExecutor(max_workers=min(len(targets), os.cpu_count() or 1))
    try:
        for job in [pool.submit(build, target, name) for name, target in targets.items()]:
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
    with suppress(OSError):  # of a cache that is not ours to write
        os.utime(source)  # marks it as used, for clean_up
    return True


def clean_up(names: list[str]) -> None:
    """Remove what earlier builds left unfinished, and of every family all archives but the last `KEPT` used."""
    for left in folder().glob(f"*{BUILDING}"):
        shutil.rmtree(left, ignore_errors=True)
    for name in names:
        used = sorted(folder().glob(f"{name}-*.zip"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in used[KEPT:]:
            with suppress(OSError):  # another process is reading it, or has removed it
                old.unlink()


@contextmanager
def writing(names: list[str]) -> Iterator[None]:
    """The cache, for one process at a time, to put these families in; BuildError where it cannot be written."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with FileLock(folder() / "lock"):
            yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BuildError(f"the miniature world: {', '.join(names)} must be built, and its cache {folder()} cannot "
                         f"be written ({reason}): set MCVP_CACHE to a folder that can.") from error


def unpack_all(scratch: Path, wanted: Iterable[str]) -> None:
    """Unpack the wanted families below `scratch`, building first those whose archive is missing, stale or damaged.

    One process at a time builds; the others wait for it and find the work done.
    """
    archives = {name: archive(name) for name in sorted(set(wanted))}  # once: a source may change while we build
    stale = [name for name, source in archives.items() if not unpack(source, scratch)]
    if not stale:
        return
    with writing(stale):
        clean_up(families())
        missing = {name: archives[name] for name in stale if not unpack(archives[name], scratch)}
        if missing:
            build_all(missing)
        for source in missing.values():
            if not unpack(source, scratch):
                raise BuildError(f"the miniature world: {source} cannot be read back; is the disk full?")
        clean_up(families())
