"""A second route to each entry of `results`: expressions over what the notebook holds at its end that give the same.

Which of them held when the record was made is kept in it; that none holds any more is a finding, with whatever versions
of the libraries, because an expression and the entry move together.
"""
import itertools
import sys

import numpy as np

from .rows import words

NEAR = 1e-9  # relative
LONGEST = 5000  # elements of a sequence, rows of a frame
CASES = 24  # values of a column that tells cases apart
PAIRED = 1200  # values that are combined in pairs
TOLD = 60  # expressions that are told of an entry


def scalar(value):
    """A number as a float, None where `value` is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float, np.integer, np.floating)):
        return float(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return None


def plain(label):
    """A label as Python has it: NumPy writes its own differently from version to version."""
    return label.item() if isinstance(label, np.generic) else label


def of_sequence(text, values):
    array = np.asarray(values, dtype=float).ravel()
    if not 1 < len(array) <= LONGEST:
        return
    yield f"{text}[0]", float(array[0])
    yield f"{text}[-1]", float(array[-1])
    finite = array[np.isfinite(array)]
    if len(finite):
        for how in ("min", "max", "mean", "median"):
            yield f"{text} {how}", float(getattr(np, how)(finite))
        if len(finite) > 1:
            yield f"{text} std", float(finite.std(ddof=1))


def of_frame(name, frame, pandas):
    frame = frame.to_frame(frame.name if frame.name is not None else "values") if frame.ndim == 1 else frame
    numbers = [k for k, kind in enumerate(frame.dtypes) if kind.kind in "fi"]
    if not 0 < len(frame) <= LONGEST:
        return
    values = {k: frame.iloc[:, k].to_numpy(dtype=float) for k in numbers}
    for k, column in values.items():
        yield from of_sequence(f"{name}[{frame.columns[k]!r}]", column)
        if len(frame) <= 60:
            for label, value in zip(frame.index, column):
                yield f"{name}[{frame.columns[k]!r}][{label!r}]", float(value)
    flat = frame.reset_index() if frame.index.names != [None] else frame
    cases = {}
    for k, column in enumerate(flat.columns):
        some = flat.iloc[:, k]
        plainly = some.dtype.kind != "f" and all(isinstance(v, (str, int, np.integer, np.bool_)) for v in some)
        if plainly and 1 < some.nunique() <= CASES:
            cases[str(column)] = some.astype(str).to_numpy()
    for by in [*((c,) for c in list(cases)[:4]), *itertools.combinations(list(cases)[:4], 2)]:
        for chosen in dict.fromkeys(zip(*(cases[c] for c in by))):
            rows = np.logical_and.reduce([cases[c] == value for c, value in zip(by, chosen)])
            where = ", ".join(f"{c} {value}" for c, value in zip(by, chosen))
            for k, column in values.items():
                if rows.sum() == 1:
                    yield f"{name}[{where}][{frame.columns[k]!r}]", float(column[rows][0])
                else:
                    yield from of_sequence(f"{name}[{where}][{frame.columns[k]!r}]", column[rows])


def of_value(name, value, depth=2):
    pandas = sys.modules.get("pandas")
    number = scalar(value)
    if number is not None:
        yield name, number
    elif pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        yield from of_frame(name, value, pandas)
    elif isinstance(value, dict) and len(value) <= 200:
        for key, item in value.items() if depth else ():
            yield from of_value(f"{name}[{plain(key)!r}]", item, depth - 1)
        numbers = [scalar(item) for item in value.values()]
        if numbers and None not in numbers:
            yield from of_sequence(f"{name}.values()", numbers)
    elif isinstance(value, (list, tuple)) and 0 < len(value) <= LONGEST:
        numbers = [scalar(item) for item in value]
        if None not in numbers:
            yield from of_sequence(name, numbers)
        elif depth and len(value) <= 60:
            for k, item in enumerate(value):
                yield from of_value(f"{name}[{k}]", item, depth - 1)
    elif getattr(value, "ndim", 0) in (1, 2) and hasattr(value, "dtype"):
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        if array.dtype.kind in "fiub" and array.size <= 20_000:
            yield f"{name} sum", float(array.sum())
            yield from of_sequence(name, array)
            if array.size > LONGEST:
                yield f"{name} mean", float(array.mean())


def values(names):
    """(expression, value) for everything that the notebook's names hold, shortest expressions first."""
    found = []
    for name, value in names.items():
        if name != "results":
            try:
                found += of_value(name, value)
            except Exception:  # an object that only looks like one of these
                continue
    return sorted(found, key=lambda item: (len(item[0]), item[0]))


FORMS = {"{}": lambda v: v, "100 × {}": lambda v: 100 * v, "1 − {}": lambda v: 1 - v, "100 × (1 − {})":
         lambda v: 100 * (1 - v), "1000 × {}": lambda v: 1000 * v, "−{}": lambda v: -v, "1 / {}": lambda v: 1 / v}


def routes(results, names):
    """Entry -> the expressions that give its value, those first that share words with it, then the shortest."""
    wanted = {key: scalar(value) for key, value in results.items()}
    wanted = {key: value for key, value in wanted.items() if value is not None and np.isfinite(value)}
    if not wanted:
        return {}
    known = values(names)
    texts, numbers = [text for text, _ in known], np.array([value for _, value in known])
    short = np.flatnonzero(np.isfinite(numbers) & (numbers != 0))[:PAIRED]
    told = {}
    with np.errstate(all="ignore"):
        for key, value in wanted.items():
            spoken = set(words(key))
            if value == 0:  # as many things are
                found = [texts[hit] for hit in np.flatnonzero(numbers == 0) if spoken <= set(words(texts[hit]))]
                told |= {key: found[:TOLD]} if found else {}
                continue
            found = []
            for form, function in FORMS.items():
                hits = np.flatnonzero(np.abs(function(numbers) - value) <= NEAR * abs(value))
                found += [form.format(texts[hit]) for hit in hits[:TOLD]]
            if not found:
                some = numbers[short]
                for sign, table in (("−", some[:, None] - some), ("/", some[:, None] / some)):
                    for scale, form in ((1, "{} {} {}"), (100, "100 × ({} {} {})")):
                        hits = np.argwhere(np.abs(scale * table - value) <= NEAR * abs(value))
                        found += [form.format(texts[short[a]], sign, texts[short[b]]) for a, b in hits[:TOLD]]
            if found:
                # expressions that speak of the same come first: others may be chance
                told[key] = sorted(found, key=lambda text: (-len(spoken & set(words(text))), len(text), text))[:TOLD]
    return told
