"""What a figure says against what it draws: a line that is labelled as one thing must not be another."""
import itertools
import re
import sys

import numpy as np

from .rows import on_a_grid, role_of, spoken, words

LONGEST = 5000  # rows of a frame that is searched
KEYS = 4  # columns of it that tell cases apart
TEXT = ("str", "string", "category")  # kinds of columns that hold words
MOST = 200_000  # numbers of a sequence or an image
ITEMS = 300_000  # numbers of an array whose pictures are told one by one
FEWEST, LONG = 5, 64  # different shares of few rows, or their number, that no other sequence has by chance
FROM = 12  # sources that are told of an artist
CASES = 40  # different values of such a column


def key_of(values):
    """Equal for the same numbers in the same order; None for numbers that others are equal to by chance."""
    array = np.asarray(values, dtype=float).ravel()
    if not 2 <= len(array) <= MOST or not np.isfinite(array).all() or np.ptp(array) == 0:
        return None
    if len(array) < 8 and (array == np.round(array)).all():
        return None
    if len(array) < LONG:
        different = np.unique(array)
        if len(different) < FEWEST and all(map(on_a_grid, different.tolist())):
            return None
    numbers = (array[0], array[-1], array.mean(), array @ np.arange(len(array)))
    return len(array), tuple(float(f"{number:.6g}") for number in numbers)


def parts_of(value):
    """An array as it is, with its channels last, averaged over either axis, and each of its items."""
    yield value, {}
    if value.ndim == 3 and len(value) in (1, 3, 4):
        yield value.transpose(1, 2, 0), {"": "channels last"}
    if value.ndim == 2 and value.size <= LONGEST:
        for axis in (0, 1):
            yield value.mean(axis), {"": f"mean over {axis}"}
    if value.ndim == 1 or len(value) > CASES:
        return
    for k, item in enumerate(value):
        yield item, {"": str(k)}
        if item.ndim == 3 and len(item) in (1, 3, 4):
            yield item.transpose(1, 2, 0), {"": f"{k}, channels last"}
        if item.ndim == 3 and 1 < len(item) <= CASES:
            for m, part in enumerate(item):
                yield part, {"": f"{k}, {m}"}


class Sources:
    """Every sequence that the frames and dicts of the notebook hold, as such and grouped: where it comes from."""

    def __init__(self, names, rows=None, cache=None):
        pandas = sys.modules.get("pandas")
        self.rows = rows
        self.cache = {} if cache is None else cache  # name -> what an array held, and the keys of its parts
        self.found = {}  # key of a sequence -> [(frame, column or None, {key column: value})]
        self.values = {}  # frame -> {key column: its values as text}
        for name, value in names.items():
            if pandas is not None and isinstance(value, pandas.Series):
                value = value.to_frame("values" if value.name is None else value.name)
            try:
                if pandas is not None and isinstance(value, pandas.DataFrame) and 2 <= len(value) <= LONGEST:
                    self.frame(name, value)
                elif isinstance(value, dict) and 1 < len(value) <= CASES:
                    self.dictionary(name, value)
                else:
                    self.sequence(name, value)
            except Exception:  # an object that only looks like one of these
                continue

    def add(self, values, source):
        try:
            key = key_of(values)
        except (TypeError, ValueError):
            return
        if key is not None:
            self.found.setdefault(key, []).append(source)

    def sequence(self, name, value):
        """A list of numbers, or an array and what it consists of along its first axis."""
        if isinstance(value, (list, tuple)):
            if 2 <= len(value) <= LONGEST and all(isinstance(item, (int, float)) for item in value):
                self.add(value, (name, None, {}))
            elif len(value) <= CASES:
                for k, item in enumerate(value):
                    if not isinstance(item, (list, tuple)):
                        self.sequence(f"{name}[{k}]", item)
            return
        if type(value).__module__.partition(".")[0] not in ("torch", "numpy") or not getattr(value, "ndim", 0):
            return
        if not 2 <= np.prod(value.shape, dtype=float) <= ITEMS:
            return
        if hasattr(value, "detach"):
            if value.is_sparse or value.is_quantized or value.is_complex() or value.device.type == "meta":
                return
            value = value.detach().float().cpu().numpy()
        if value.dtype.kind in "fiub":
            self.array(name, value)

    def array(self, name, value):
        """What it is since an earlier cell was looked at then."""
        order = value.ravel()
        signature = (value.shape, str(value.dtype), float(order[0]), float(order @ np.arange(len(order), dtype=float)))
        known = self.cache.get(name)
        if known is None or known[0] != signature:
            keys = [(key_of(part), (name, None, case)) for part, case in parts_of(value)]
            known = self.cache[name] = signature, keys
        for key, source in known[1]:
            if key is not None:
                self.found.setdefault(key, []).append(source)

    def of(self, values):
        """What these numbers may be drawn from, in words."""
        try:
            found = self.found.get(key_of(values), [])
        except (TypeError, ValueError):
            return []
        return sorted({f"{name}{f'[{column!r}]' if column is not None else ''}"
                       + "".join(f", {key} {case}".replace(",  ", ", ") for key, case in cases.items())
                       for name, column, cases in found})[:FROM]

    def of_picture(self, picture):
        """As `of`; also that it is a row of a known set, upright."""
        return self.of(picture) + (["a row of a set"] if self.rows is not None and self.rows.knows(picture) else [])

    def dictionary(self, name, value):
        keys = [k for k in value if isinstance(k, str)]
        if len(keys) == len(value):
            self.values[name] = {"": set(keys)}
            for key, item in value.items():
                if hasattr(item, "detach"):
                    item = item.detach().cpu().numpy()
                if getattr(item, "ndim", 0) > 1:
                    self.sequence(f"{name}[{key!r}]", item)
                plain = isinstance(item, (list, tuple)) and all(isinstance(v, (int, float)) for v in item)
                if plain or getattr(item, "ndim", 0) == 1:
                    self.add(item, (name, None, {"": key}))

    def frame(self, name, frame):
        if frame.columns.nlevels > 1:
            return
        flat = frame.reset_index() if frame.index.names != [None] else frame
        if not flat.columns.is_unique:
            return
        keys = [c for c in flat.columns if (flat[c].dtype.kind in "OiUbT" or str(flat[c].dtype) in TEXT)
                and all(isinstance(v, (str, int, np.integer, np.bool_)) for v in flat[c])]
        keys = [c for c in keys if 1 < flat[c].nunique() <= CASES][:KEYS]
        cases = [c for c in keys if flat[c].dtype.kind not in "ib"]
        self.values[name] = {str(c): {str(v) for v in flat[c].unique()} for c in cases}
        numbers = [c for c in flat.columns if flat[c].dtype.kind == "f"]
        for column in numbers:
            self.add(flat[column], (name, str(column), {}))
        for along in keys:
            others = [c for c in cases if c != along]
            for by in [(), *((c,) for c in others), *itertools.combinations(others, 2)]:
                try:
                    grouped = flat.groupby([*by, along], sort=True, observed=True)[numbers]
                    for how in ("mean", "min", "max"):
                        table = getattr(grouped, how)()
                        parts = table.groupby(level=list(range(len(by)))) if by else [((), table)]
                        for value, part in parts:
                            value = value if isinstance(value, tuple) else (value,)
                            for column in numbers:
                                self.add(part[column], (name, str(column), dict(zip(map(str, by), map(str, value)))))
                except (TypeError, ValueError, KeyError):
                    continue


def contradictions(axes, sources):
    """Sentences about the lines of a figure whose label names one case and whose data are another's."""
    said = []
    for ax in axes:
        lines = [(str(line.get_label()), key_of_line(line)) for line in ax.lines]
        lines = [(label, key) for label, key in lines if key and not label.startswith("_")]
        labels = {label for label, _ in lines}
        for label, key in lines:
            found = sources.found.get(key, [])
            if found:
                said += other_case(label, labels, found, sources)
                said += other_set(label, ax.get_ylabel(), found)
    return said


def class_lists(names):
    """The lists of class names that the notebook holds."""
    return [list(value) for value in names.values() if isinstance(value, (list, tuple)) and 2 <= len(value) <= 1000
            and all(isinstance(item, str) and item for item in value) and len(set(value)) == len(value)]


def named_classes(text, classes):
    """Position of each class name in a text, longer names first: `T-shirt` is no `shirt`."""
    found, taken = {}, set()
    for name in sorted(classes, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            span = range(*match.span())
            if not taken & set(span):
                taken.update(span)
                found[match.start()] = name
    return found


def wrong_titles(axes, suptitle, rows, names):
    """Sentences about pictures of a known row whose title calls another class the true one."""
    said, lists = [], None
    for title, picture in axes:
        label = rows.label_of(picture)
        if label is None or not title:
            continue
        lists = class_lists(names) if lists is None else lists
        for classes in lists:
            if not 0 <= label < len(classes):
                continue
            found = named_classes(title, classes)
            if not found:
                continue
            true = [name for start, name in found.items() if TRUE_BEFORE.search(title[:start])
                    or title[:start].endswith("(") and TRUE_IN_BRACKETS.search(suptitle)]
            if true and classes[label] not in true:
                said.append(f"a picture of {classes[label]!r} is said to be {true[0]!r} in truth")
            alone = len(found) == 1 < len(classes) - 1 and not CALLED.search(title)
            if not true and alone and classes[label] not in found.values():
                said.append(f"a picture of {classes[label]!r} has the title {title!r}")
            break
    return said


TRUE_BEFORE = re.compile(r"(?:true|truth|it is an?|really)\W*(?:class|label|breed)?\W*$", re.IGNORECASE)
TRUE_IN_BRACKETS = re.compile(r"true \w+ in brackets", re.IGNORECASE)
CALLED = re.compile(r"\d|%|called|predicted|answer|said|asked|“", re.IGNORECASE)


def exchanged_axes(ax):
    """A matrix of shares by class whose rows add up to one has the true classes as its rows."""
    said = []
    for image in ax.images:
        matrix = np.ma.filled(image.get_array(), np.nan)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2 or not np.isfinite(matrix).all():
            continue
        by_row, by_column = (np.allclose(matrix.sum(axis), 1, atol=1e-3) for axis in (1, 0))
        words_x, words_y = (set(words(text)) for text in (ax.get_xlabel(), ax.get_ylabel()))
        if by_row != by_column and (words_x & TRUTH) != (words_y & TRUTH):
            true = words_y if by_row else words_x
            if not true & TRUTH:
                said.append("the axes of a matrix of shares are exchanged: "
                            f"its {'rows' if by_row else 'columns'} add up to one, they are the true classes")
    return said


TRUTH = {"true", "truth", "actual"}


def key_of_line(line):
    try:
        return key_of(line.get_ydata(orig=False))
    except (TypeError, ValueError):
        return None


def other_case(label, labels, found, sources):
    """The label is one case of a column (`network`: CNN) and all that holds these data is another case of it."""
    named = [(frame, column) for frame, columns in sources.values.items()
             for column, values in columns.items() if label in values]
    for frame, column in named:
        cases = [case[column] for name, _, case in found if name == frame and column in case]
        elsewhere = [1 for name, _, case in found if name != frame and label in case.values()]
        if cases and label not in cases and not elsewhere:
            return [f"the line labelled {label!r} draws {frame}, {column or 'key'} {cases[0]!r}"]
    return []


def other_set(label, ylabel, found):
    """The label or the axis speaks of one set and all columns that hold these data of another."""
    role = role_of(label) or role_of(ylabel)
    roles = {role_of(column) for _, column, _ in found if column}
    if role and roles and 0 not in roles and role not in roles:
        return [f"the line labelled {label!r} ({ylabel}) draws {spoken(roles.pop())} numbers: "
                f"column {found[0][1]!r} of {found[0][0]}"]
    return []
