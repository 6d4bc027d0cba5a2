"""The watch of tests/checks/kernel around the run of a notebook: begun before its first cell, asked after its last."""
from __future__ import annotations

import ast
import json
import time
from pathlib import Path
from queue import Empty

from nbformat import NotebookNode
from nbval.kernel import RunningKernel

from tests.checks import records
from tests.notebooks import cell_digests, code_digest

KERNEL = Path(__file__).resolve().parent / "kernel"
NO_RULES = {"steps", "wording"}  # excuses of what is found elsewhere: in a record, by tests/test_wording.py
SECONDS = 120  # to wait for an answer of the kernel


class WatchError(RuntimeError):
    """The kernel did not answer, or the watch itself failed."""


def begin(kernel: RunningKernel) -> None:
    """Watch this kernel from now on; no name is left in the notebook's namespace."""
    folder = str(KERNEL)
    code = (f"import sys; sys.path.insert(0, {folder!r}); import mcvp_watch; sys.path.remove({folder!r}); "
            "mcvp_watch.start()")
    ask(kernel, f"exec({code!r}, {{}})", "None")


def end(kernel: RunningKernel, notebook: NotebookNode) -> dict:
    """What the watch of this kernel found and tells; from then on it watches no more."""
    told = json.loads(ast.literal_eval(ask(kernel, "", "__import__('mcvp_watch').finish()")))
    told["code"] = code_digest(notebook)
    told["cells"] = cell_digests(notebook)
    return told


def ask(kernel: RunningKernel, code: str, expression: str) -> str:
    """Run `code` silently in the kernel and return the `repr` of the expression's value."""
    client = kernel.kc
    message = client.execute(code, silent=True, store_history=False, stop_on_error=False,
                             user_expressions={"answer": expression})
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            reply = client.get_shell_msg(timeout=1)
        except Empty:
            if not kernel.is_alive():
                break
            continue
        if reply["parent_header"].get("msg_id") == message:
            kernel.await_idle(message, timeout=SECONDS)
            content = reply["content"]
            answer = content.get("user_expressions", {}).get("answer", content)
            if content["status"] == "ok" and answer["status"] == "ok":
                return answer["data"]["text/plain"]
            raise WatchError(f"{answer.get('ename')}: {answer.get('evalue')}")
    raise WatchError(f"the kernel did not answer the watch within {SECONDS} s")


def write(told: dict, folder: Path, name: str) -> None:
    """Keep what was told of the notebook `name` below `folder`."""
    path = Path(folder, name).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def excuses(notebook: NotebookNode) -> dict[str, str]:
    """Kind of finding -> why it is right here: what the notebook declares as `checks` in its `shelf` metadata."""
    return dict(notebook.metadata.get("shelf", {}).get("checks", {}))


def broken_rules(name: str, notebook: NotebookNode, told: dict) -> list[str]:
    """The rules that the quick run of the notebook `name` broke without an excuse, a line each."""
    excused = excuses(notebook)
    found = [f"{name}, code cell {cell}: {text} [{key[0]}]" for cell, _, text, key in told["findings"]
             if key[0] not in excused]
    if told["errors"]:  # where the watch could not see all, an excuse may well look as if it were not needed
        return found
    unused = set(excused) - {key[0] for _, _, _, key in told["findings"]} - NO_RULES
    return found + [f"{name}: shelf.checks excuses {kind!r}, and nothing of that kind was found"
                    for kind in sorted(unused)]


def findings(name: str, notebook: NotebookNode, told: dict) -> list[str]:
    """What is wrong with the notebook `name` by what was told of its quick run, a line each.

    One without a record is held to nothing: what rules it breaks is listed at the end of the run.
    """
    record = records.load(name)
    if record is None:
        return []
    different = records.differences(record, told, "steps" in excuses(notebook))
    found = broken_rules(name, notebook, told) + [f"{name}: {line}" for line in different[:records.LISTED]]
    if different:
        more = f" in {len(different)} places" if len(different) > records.LISTED else ""
        found.append(f"{name}: tells something else than its record{more}: where the notebook is right, "
                     f"python -m tests.checks {name}, and read the difference")
    return found
