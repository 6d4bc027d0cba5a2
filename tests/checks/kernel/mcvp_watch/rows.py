"""Where the rows of a data set go: every tensor that is made from them remembers which ones.

A row is born when a cell has ended and a name says what its rows are for: `data["train"][0]`, `val_images`,
`parts["test"]`. From then on each operation of PyTorch hands the rows on to its result, through indexing, scaling,
augmentation and the network, to the loss that is differentiated and to the number that is read off. Two tensors with
the same content are the same rows, whatever library loaded them and whatever they are called.
"""
import hashlib
import re
import sys
import weakref
from fractions import Fraction

import numpy as np

TRAIN, VAL, TEST = 1, 2, 4
ROLES = {TRAIN: "train", VAL: "validation", TEST: "test"}
WORDS = {"train": TRAIN, "training": TRAIN, "trainset": TRAIN, "val": VAL, "valid": VAL, "validation": VAL,
         "dev": VAL, "test": TEST, "testing": TEST, "testset": TEST}
DEPTH = 3  # how deep a container is looked into
FEWEST = 6  # rows of a data set: fewer are a toy
MOST = 200_000  # rows that are hashed
IN_NAMES = re.compile(r"[A-Za-z]+")


def words(text):
    """The words of a name or key, in lower case: `valLoss` and `val_loss` are `val`, `loss`."""
    return [word.lower() for word in IN_NAMES.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(text)))]


def role_of(text):
    """The one role that a name or key speaks of, 0 where it speaks of none or of several."""
    roles = {WORDS[word] for word in words(text) if word in WORDS}
    return roles.pop() if len(roles) == 1 else 0


def spoken(mask):
    return " and ".join(name for role, name in ROLES.items() if mask & role) or "no known rows"


class Tag:
    """What a tensor holds of the rows: `rows`, one id for each element of its first axis (`aligned`) or of the rows
    that it was computed from; `mask`, their roles; `lent`, those of them that come from row numbers: another split may
    give the same rows another role."""

    __slots__ = ("rows", "mask", "aligned", "lent")

    def __init__(self, rows, mask, aligned, lent=0):
        self.rows, self.mask, self.aligned, self.lent = rows, mask | lent, aligned, lent


class Rows:
    """The registry of rows, and the mode that follows them through PyTorch."""

    def __init__(self, watch):
        self.watch = watch
        self.alive = {}  # id of a tensor -> (weak reference, Tag)
        self.ids = {}  # (kind of row, content) -> id
        self.roles = np.zeros(1024, np.uint8)  # id -> roles
        self.labels = {}  # id -> the label that stands beside the row
        self.kinds = set()  # shapes and kinds of the rows that are known
        self.values = {}  # a float that was read off -> roles of the rows it came from
        self.mode = None
        self.busy = False  # the registry itself is looking: nothing is followed or read off
        self.born_in = {}  # role -> the first cell after which there were such rows
        self.numbers_since = {}  # role -> the first cell after which a name of numbers spoke of it
        self.seen = {}  # name -> the object that it had, and its length: it is looked into once
        self.scanned = {}  # path -> id of the object seen there: it is looked at once
        self.splits = {}  # path -> (role, row numbers) of what this cell has split

    # --- tags

    def tag(self, tensor):
        entry = self.alive.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def put(self, tensor, tag):
        key = id(tensor)
        self.alive[key] = (weakref.ref(tensor, lambda _, key=key: self.alive.pop(key, None)), tag)

    def put_rows(self, tensor, rows):
        self.put(tensor, Tag(rows, self.mask(rows), True))

    def mask(self, rows):
        return int(np.bitwise_or.reduce(self.roles[rows])) if len(rows) else 0

    def number(self, kind, keys):
        """Ids for the contents `keys` of one kind of row."""
        ids = np.empty(len(keys), np.int64)
        for position, key in enumerate(keys):
            key = (kind, key)
            found = self.ids.get(key)
            if found is None:
                found = self.ids[key] = len(self.ids)
            ids[position] = found
        while len(self.ids) > len(self.roles):
            self.roles = np.concatenate([self.roles, np.zeros_like(self.roles)])
        return ids

    # --- births, and what names say

    def scan(self, names):
        """After a cell: rows are born under names that say what they are for; other names are held to what they say."""
        torch = sys.modules.get("torch")
        self.busy = True
        try:
            for name, value in names.items():
                seen = (id(value), len(value) if isinstance(value, (list, dict, tuple)) else 0)
                if self.seen.get(name) == seen:
                    continue
                self.seen[name] = seen
                self.visit(torch, name, value, (name,), role_of(name), DEPTH)
                self.hold(name, value)
        finally:
            self.busy = False

    def visit(self, torch, name, value, path, role, depth):
        if torch is not None and isinstance(value, torch.Tensor):
            self.meet(value, path, role, "tensor")
        elif isinstance(value, np.ndarray):
            self.meet(value, path, role, "array")
        elif depth and hasattr(value, "data") and hasattr(value, "targets") and hasattr(value, "__getitem__"):
            self.dataset(torch, value, path, role)
        elif depth and isinstance(value, dict) and len(value) <= 64:
            for key, item in list(value.items()):
                self.visit(torch, name, item, (*path, key), role_of(key) or role, depth - 1)
        elif depth and isinstance(value, (list, tuple)) and 0 < len(value) <= 4096:
            self.pair(torch, value, path, role)
            if role and torch is not None and len(value) >= FEWEST and isinstance(value[0], (tuple, list, dict)):
                self.samples(torch, value, path, role)
            for item in value[:64]:
                self.visit(torch, name, item, path, role, depth - 1)
            if role and len(value) > 8 and isinstance(value[0], (tuple, list)):
                for item in value[64:]:
                    self.visit(torch, name, item, path, role, depth - 1)

    def dataset(self, torch, value, path, role):
        """torchvision's form of a data set in memory. What is called its training part may yet be split."""
        parts = [getattr(value, name) for name in ("data", "targets")]
        if torch is not None and all(isinstance(part, torch.Tensor) and part.dim() for part in parts):
            if self.tag(parts[0]) is None and FEWEST <= len(parts[0]) <= MOST:
                rows = self.born(parts[0], role, path)
                if rows is not None:
                    if role == TEST:
                        self.roles[rows] |= np.uint8(role)
                        self.born_in.setdefault(role, self.watch.cell)
                    self.put_rows(parts[0], rows)
                    self.follow()
            self.pair(torch, parts, path, role if role == TEST else 0)

    def pair(self, torch, items, path, role):
        """`(images, labels)`: the labels are of the images' rows."""
        if torch is None or len(items) > 8 or not all(isinstance(item, torch.Tensor) for item in items):
            return
        first = items[0]
        if len(items) < 2 or not first.dim() or any(not i.dim() or len(i) != len(first) for i in items):
            return
        if self.tag(first) is None:
            self.meet(first, path, role, "tensor")
        tag = self.tag(first)
        if tag is not None and tag.aligned:
            for item in items[1:]:
                if self.tag(item) is None:
                    self.put(item, tag)
                if item.dim() == 1 and not item.is_floating_point() and len(item) <= MOST:
                    self.labels.update(zip(tag.rows.tolist(), item.tolist()))

    def samples(self, torch, value, path, role):
        """A list of samples, each a picture with what belongs to it: `[(image, {"boxes": …}), …]`."""
        shared = 0
        for item in value:
            parts = [inner for part in (item.values() if isinstance(item, dict) else item)
                     for inner in (part.values() if isinstance(part, dict) else [part])]
            tensors = [part for part in parts if isinstance(part, torch.Tensor) and part.dim()]
            picture = next((part for part in tensors if part.dim() >= 2 and part.numel() > 16), None)
            if picture is None:
                return
            tag = self.tag(picture)
            if tag is None or not tag.mask:
                content = hashlib.blake2b(np.ascontiguousarray(picture.detach().cpu().numpy()).tobytes()).digest()
                rows = self.number(("one", tuple(picture.shape), kind_of(picture)), [content])
                shared += bool(int(self.roles[rows[0]]) & ~role)
                self.roles[rows] |= np.uint8(role)
                tag = Tag(rows, role, False)
                for part in tensors:
                    if self.tag(part) is None:
                        self.put(part, tag)
        if shared:
            self.watch.find("rows", f"{shared} of the {len(value)} samples of {shown(path)} are also of another set",
                            ("shared", *map(str, path)))
        self.born_in.setdefault(role, self.watch.cell)
        self.follow()

    def meet(self, value, path, role, kind):
        key = tuple(map(str, path)) + (kind, tuple(value.shape))
        if self.scanned.get(key) == id(value):
            return
        self.scanned[key] = id(value)
        tag = self.tag(value)
        if tag is not None:
            if role and tag.mask and not tag.mask & role:
                self.watch.find("rows", f"{shown(path)} is named after {spoken(role)} rows, "
                                        f"and its rows are of {spoken(tag.mask)}", ("name", *map(str, path)))
            return
        if not value.shape or not FEWEST <= value.shape[0] <= MOST:
            return
        if not role:  # rows that are known by their content, under a name that says nothing
            if self.ids and (tuple(value.shape[1:]), kind_of(value)) in self.kinds:
                rows = self.born(value, 0, path)
                if rows is not None and (self.roles[rows] != 0).all():
                    self.put_rows(value, rows)
            return
        if self.is_split(value, path):
            self.split(value, role, path)
            return
        rows = self.born(value, role, path)
        if rows is None:
            return
        both = self.roles[rows] & ~np.uint8(role)
        self.roles[rows] |= np.uint8(role)
        shared = int((both & (TRAIN | VAL | TEST) != 0).sum())
        if shared and not (role | int(np.bitwise_or.reduce(both))) == role:
            self.watch.find("rows", f"{shared} of the {len(rows)} rows of {shown(path)} are also rows of "
                                    f"{spoken(int(np.bitwise_or.reduce(both)))}", ("shared", *map(str, path)))
        self.put_rows(value, rows)
        self.born_in.setdefault(role, self.watch.cell)
        self.follow()

    def born(self, value, role, path):
        """The rows of a new tensor or array, None where it holds no data set."""
        array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        if array.dtype == object:
            return None
        if array.ndim >= 2:
            flat = np.ascontiguousarray(array.reshape(len(array), -1))
            if flat.shape[1] < 2 or (flat == flat[:1]).all():
                return None
            self.kinds.add((array.shape[1:], array.dtype.kind))
            return self.number((array.shape[1:], array.dtype.kind), [row.tobytes() for row in flat])
        return None

    def is_split(self, value, path):
        """Whether these are the numbers of the rows of a set, each once."""
        if len(value.shape) != 1 or kind_of(value) not in "iu":
            return False
        array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        named = {"rows", "index", "indices", "order", "numbers"} & set(words(path[0])) or len(path) > 1
        return bool(named) and len(np.unique(array)) == len(array) and array.min() >= 0

    def split(self, value, role, path):
        """Row numbers lend their role to what they choose; numbers of another cell may count other rows."""
        numbers = value.tolist()
        self.put(value, Tag(self.number(("number", self.watch.cell), numbers), role, True, role))
        self.splits[path] = (role, set(numbers))
        self.born_in.setdefault(role, self.watch.cell)
        self.follow()

    def end_cell(self):
        """The last split of the cell shares no row; one of another seed may."""
        for path, (role, numbers) in self.splits.items():
            for other, (role_of_other, others) in self.splits.items():
                if role < role_of_other and numbers & others:
                    self.watch.find("rows", f"{len(numbers & others)} of the {len(others)} rows of {shown(other)} are "
                                            f"also rows of {shown(path)}", ("shared", *map(str, other)))
        self.splits.clear()

    # --- what names of numbers say

    def hold(self, name, value):
        """Numbers under a name, a key or a column that speaks of a set were read off rows of that set."""
        if role_of(name) and isinstance(value, (float, list, dict)) or type(value).__name__ in ("DataFrame", "Series"):
            self.numbers_since.setdefault(role_of(name), self.watch.cell)
        if not self.values:
            return
        pandas = sys.modules.get("pandas")
        if isinstance(value, (float, list)):
            self.hold_numbers((name,), role_of(name), value if isinstance(value, list) else [value])
        elif isinstance(value, dict) and len(value) <= 256:
            for key, item in value.items():
                if isinstance(item, (float, list)):
                    role = role_of(key) if isinstance(key, str) else 0
                    self.hold_numbers((name, key), role or role_of(name), item if isinstance(item, list) else [item])
        elif pandas is not None and isinstance(value, pandas.DataFrame) and len(value) <= 5000:
            for column in value.columns:
                role = role_of(column if isinstance(column, str) else " ".join(map(str, column))
                               if isinstance(column, tuple) else "")
                if role:
                    part = value[column]
                    if getattr(part, "ndim", 1) == 1 and part.dtype.kind == "f":
                        self.hold_numbers((name, column), role, part.tolist())

    def hold_numbers(self, path, role, numbers):
        if not role:
            return
        known = {number: self.values[number] for number in numbers
                 if isinstance(number, float) and self.values.get(number)}
        fine = [number for number in known if not on_a_grid(number)]  # a share of few rows comes up by chance
        if not fine and (len(known) < 2 or len(known) < len(set(numbers))):
            return
        if all(not mask & role for mask in known.values()):
            strange = known[fine[0] if fine else next(iter(known))]
            self.watch.find("rows", f"{shown(path)} is named after {spoken(role)}, and its numbers were read off "
                                    f"{spoken(strange)} rows", ("name", *map(str, path)))

    def row_of(self, picture):
        """The row that a picture shows, None where it shows no row that is known."""
        for array in (picture, picture.transpose(2, 0, 1) if picture.ndim == 3 else None,
                      picture[None] if picture.ndim == 2 else None, picture.ravel()):
            if array is not None:
                key = ((array.shape, array.dtype.kind), np.ascontiguousarray(array).tobytes())
                if key in self.ids:
                    return self.ids[key]
        return None

    def knows(self, picture):
        return self.row_of(picture) is not None

    def label_of(self, picture):
        """The label of the row that a picture shows, None where it shows no row that is known."""
        return self.labels.get(self.row_of(picture))

    # --- following

    def follow(self):
        torch = sys.modules.get("torch")
        if self.mode is None and torch is not None:
            from .follow import make_mode

            self.mode = make_mode(torch, self)
            self.mode.__enter__()

    def stop(self):
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None
        self.busy = True

    def read_off(self, tensor, tag, value):
        """A Python number was read off a tensor."""
        if isinstance(value, float) and value == value and value not in (0.0, 1.0):
            self.values[value] = self.values.get(value, 0) | tag.mask
        self.watch.loops.looked(tag)


def kind_of(value):
    """The kind of a tensor's or array's numbers, as NumPy writes it."""
    name = str(value.dtype).rpartition(".")[2]
    return {"uint": "u", "bool": "b"}.get(name.rstrip("0123456789"), name[0])


def on_a_grid(number, most=1000):
    """Whether a number is a share of at most so many rows."""
    near = Fraction(number).limit_denominator(most)
    return abs(float(near) - number) < 6e-8


def shown(path):
    first, *rest = path
    return str(first) + "".join(f"[{key!r}]" for key in rest)
