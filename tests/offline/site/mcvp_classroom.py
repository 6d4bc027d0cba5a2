"""How values get into a parameters cell; and the classroom: what a kernel does for a reader of the miniature world.

The test runner and the measuring tool use `rewrite` and `copy_folder`. Kernels that `python -m tests.offline` starts
load this file as an IPython extension. Standard library only: they find nothing else of this repository.
"""
import ast
import html
import json
import os
import shutil
import tempfile
from pathlib import Path


def assigned(source):
    """(name, right side) of each plain assignment at the top level of a cell, in order, as syntax trees."""
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            if len(targets) == 1 and isinstance(targets[0], ast.Name):
                yield targets[0].id, statement.value


def rewrite(source, literals):
    """A cell's source in which its assignments to the names of `literals` have these right sides; the rest stays."""
    lines = source.encode().splitlines(keepends=True)  # syntax trees count columns in bytes
    for name, value in reversed(list(assigned(source))):
        if name in literals:
            first, last = value.lineno - 1, value.end_lineno - 1
            before, after = lines[first][:value.col_offset], lines[last][value.end_col_offset:]
            lines[first:last + 1] = [before + literals[name].encode() + after]
    return b"".join(lines).decode()


def copy_folder(source, target):
    """Copy a chapter's folder without its notebooks; the copy can be written even where the original cannot."""
    ignored = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "__pycache__")
    shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)


# --- the classroom ----------------------------------------------------------------------------------------------------

def known(source, cells):
    """The literals for a cell that is one of these parameters cells, its values edited or not; {} for any other cell.

    Each of `cells` has `own`, name -> right side in the notebook, and `quick`, name -> right side in this world. It is
    known by its names; where several would do, by the most right sides in common. A right side that is not the
    notebook's own is the reader's, and stays.
    """
    try:
        here = {name: ast.unparse(value) for name, value in assigned(source)}
    except SyntaxError:
        return {}

    def common(cell):
        return sum(here[name] == value for name, value in cell["own"].items())

    same = max((cell for cell in cells if cell["own"].keys() <= here.keys()), key=common, default={"quick": {}})
    return {name: value for name, value in same["quick"].items() if here[name] == same["own"][name]}


def show(text):
    """Display a paragraph in the cell that is running."""
    from IPython.display import display

    style = "border-left: 4px solid #b26a00; padding: 4px 12px; margin: 4px 0"
    display({"text/plain": text, "text/html": f'<div style="{style}">{html.escape(text)}</div>'}, raw=True)


def writable(folder):
    """Whether a file can be made in the folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def load_ipython_extension(shell):
    """Give known parameters cells their quick values, and say in the first cell that runs where the reader is."""
    with open(os.environ["MCVP_CLASSROOM"], encoding="utf-8") as file:
        job = json.load(file)
    banner = [job["banner"]]
    here = Path.cwd()
    if not writable(here) and here.parent == Path(job["root"]):
        copy = Path(tempfile.mkdtemp(prefix="folder-", dir=job["scratch"]), here.name)
        copy_folder(here, copy)
        os.chdir(copy)
        banner.append(f"The folder {here} cannot be written: this notebook works in a copy that goes when the "
                      "classroom ends.")

    def transform(lines):
        source = "".join(lines)
        literals = known(source, job["cells"])
        return rewrite(source, literals).splitlines(keepends=True) if literals else lines

    def announce(info):
        if banner:
            show(" ".join(banner))
            banner.clear()
        if literals := known(info.raw_cell, job["cells"]):
            values = ", ".join(f"{name} = {literal}" for name, literal in literals.items())
            show(f"Small values for this world: {values}. Change a value here and run the cell again: yours is used.")

    shell.input_transformers_post.append(transform)
    shell.events.register("pre_run_cell", announce)
