"""Names, keys and labels of a notebook that speak of one thing and hold another, read without running it.

Two things exchanged are found where each stands under the other's name: arguments under each other's parameters,
entries of a dict, what a function returns and what takes it. A single thing is
found where its name speaks of one set (training, validation, test) and all that it is made of speaks of another.
"""
from __future__ import annotations

import ast
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Set

from tests.definitions import parse

SETS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
        "test": "test"}
PLOTS = {"plot", "scatter", "bar", "barh", "errorbar", "semilogy", "semilogx", "loglog", "step", "hist"}
CUT = re.compile(r"[,;.(\n]")  # what parts the words of one value from those of the next
WORD = re.compile(r"[A-Za-z]+")


@functools.cache
def words(text: str) -> frozenset[str]:
    """The words of a name or a text that have three letters or more, in lower case and without the plural's s."""
    return frozenset(word.lower().removesuffix("s") for word in WORD.findall(text) if len(word) > 2)


def words_of(node: ast.AST) -> set[str]:
    """What the names, attributes and keys of an expression say."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found |= words(part.id)
        elif isinstance(part, ast.Attribute):
            found |= words(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found |= words(part.value)
    return found


def set_of(said: Set) -> str | None:
    """The one set that words speak of."""
    sets = {SETS[word] for word in said if word in SETS}
    return sets.pop() if len(sets) == 1 else None


def crosswise(first: tuple[Set, Set], second: tuple[Set, Set]) -> bool:
    """Whether two things, each (what is said of it, what it says itself), stand under each other's words."""
    (said_a, a), (said_b, b) = first, second
    only_a, only_b = a - b, b - a
    return bool(said_a & only_b and not said_a & only_a and said_b & only_a and not said_b & only_b)


def is_plain(node: ast.AST) -> bool:
    """A name, a part of it, or a number that is read off it: nothing that is made of several things."""
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            node = node.func.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("float", "int", "round") and node.args:
            node = node.args[0]
        elif isinstance(node, ast.Attribute):
            node = node.value
        elif isinstance(node, ast.Subscript) and all(isinstance(part, (ast.Constant, ast.Tuple, ast.Load, ast.USub,
                                                                       ast.UnaryOp)) for part in ast.walk(node.slice)):
            node = node.value
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)) and isinstance(
                node.left, ast.Constant):
            node = node.right
        else:
            return isinstance(node, ast.Name)


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def findings(sources: list[str]) -> list[str]:
    """Sentences about what is wrong in these code cells, each with the number of its cell."""
    trees = [parse(source) for source in sources]
    every = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    count = Counter(node.name for node in every)
    functions = {node.name: node for node in every if count[node.name] == 1}
    return [f"code cell {number}: {text}" for number, tree in enumerate(trees, start=1)
            for text in dict.fromkeys(of_cell(tree, functions))]


def of_cell(tree: ast.AST, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from arguments(node, functions)
            yield from labels(node)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            yield from unpacked(node, functions)
            yield from assigned(node)
        elif isinstance(node, ast.Dict):
            yield from entries(node)
        elif isinstance(node, ast.JoinedStr):
            yield from texts(node)
    yield from twice(tree)


def arguments(call: ast.Call, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """`f(labels, images)` of `def f(images, labels)`."""
    function = functions.get(getattr(call.func, "id", ""))
    if function is None:
        return
    plain = itertools.takewhile(lambda argument: not isinstance(argument, ast.Starred), call.args)
    given = [(parameter.arg, argument.id) for parameter, argument in zip(function.args.args, plain)
             if isinstance(argument, ast.Name)]
    for (first, a), (second, b) in itertools.combinations(given, 2):
        if a != b and (a, b) == (second, first):
            yield f"{call.func.id} is given {a} as {first} and {b} as {second}"


def unpacked(node: ast.Assign, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """`accuracy, loss = f()` where `f` returns `loss, accuracy`."""
    target, value = node.targets[0], node.value
    function = functions.get(getattr(getattr(value, "func", None), "id", "")) if isinstance(value, ast.Call) else None
    if function is None or not isinstance(target, ast.Tuple):
        return
    for part in ast.walk(function):
        if isinstance(part, ast.Return) and isinstance(part.value, ast.Tuple) and len(part.value.elts) == len(
                target.elts):
            pairs = [(words_of(taken), words_of(given)) for taken, given in zip(target.elts, part.value.elts)]
            for (k, first), (m, second) in itertools.combinations(enumerate(pairs), 2):
                if crosswise(first, second):
                    yield (f"{ast.unparse(target.elts[k])} and {ast.unparse(target.elts[m])} take what {function.name} "
                           f"returns as {ast.unparse(part.value.elts[k])} and {ast.unparse(part.value.elts[m])}")


def entries(node: ast.Dict) -> Iterator[str]:
    pairs = [(key.value, value) for key, value in zip(node.keys, node.values)
             if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    pairs = [(key, value) for key, value in pairs if is_plain(value)]
    for (first, a), (second, b) in itertools.combinations(pairs, 2):
        if crosswise((words(first), words_of(a)), (words(second), words_of(b))):
            yield f"the entries {first!r} and {second!r} hold {ast.unparse(a)} and {ast.unparse(b)}"
    known = {key.value: value for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)}
    for key, value in pairs:
        yield from of_another_set(repr(key), words(key), value)
        if isinstance(value, ast.Name) and value.id in set(known) - {key} and ast.unparse(known[value.id]) != value.id:
            yield f"the entry {key!r} holds {value.id}, and the entry {value.id!r} does not"


def assigned(node: ast.Assign) -> Iterator[str]:
    target = node.targets[0]
    if isinstance(target, ast.Name):
        yield from of_another_set(target.id, words(target.id), node.value)
    elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        yield from of_another_set(ast.unparse(target), words(str(target.slice.value)), node.value)


def of_another_set(name: str, said: Set, value: ast.AST) -> Iterator[str]:
    speaks = set_of(said)
    if speaks and is_plain(value):
        holds = {SETS[word] for word in words_of(value) if word in SETS}
        if holds and speaks not in holds:
            yield f"{name} speaks of {speaks} and is {ast.unparse(value)[:80]}"


def labels(call: ast.Call) -> Iterator[str]:
    if name_of(call) not in PLOTS or not call.args:
        return
    for keyword in call.keywords:
        if keyword.arg == "label" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            drawn = call.args[1] if len(call.args) > 1 and not isinstance(call.args[1], ast.Constant) else call.args[0]
            yield from of_another_set(f"the label {keyword.value.value!r}", words(keyword.value.value), drawn)


def texts(node: ast.JoinedStr) -> Iterator[str]:
    """`test accuracy {val_accuracy}`: the words before a value, from the last comma on.

    Not of training: what was taken from it (a training class) may be judged elsewhere.
    """
    before = ""
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            if set_of(words(before)) != "train":
                yield from of_another_set(f"the text {before.strip()!r}", words(before), part.value)
            before = ""
        else:
            before = CUT.split(str(part.value))[-1]


def twice(tree: ast.AST) -> Iterator[str]:
    """Two lines of the same axes with the same label; two entries of `results` or a frame of the same expression."""
    seen: dict[tuple, ast.Call] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in PLOTS and isinstance(node.func, ast.Attribute):
            for keyword in node.keywords:
                if keyword.arg == "label" and isinstance(keyword.value, ast.Constant):
                    key = ast.unparse(node.func.value), keyword.value.value
                    if key in seen and ast.unparse(seen[key]) != ast.unparse(node):
                        yield f"two things drawn on {key[0]} have the label {key[1]!r}"
                    seen[key] = node
        entries, where = None, ""
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "results":
            entries, where = node.value, "results"
        elif isinstance(node, ast.Call) and name_of(node) == "DataFrame" and node.args:
            entries, where = node.args[0], "a frame"
        known: dict[str, str] = {}
        for key, value in zip(entries.keys, entries.values) if isinstance(entries, ast.Dict) else ():
            text = ast.unparse(value)
            if isinstance(key, ast.Constant) and not isinstance(value, ast.Constant):
                if text in known:
                    yield f"the entries {known[text]!r} and {key.value!r} of {where} are both {text}"
                known[text] = key.value
