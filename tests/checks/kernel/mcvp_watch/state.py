"""What a notebook's names hold at its end, each in a few numbers: what was computed and never shown is told, too."""
import sys

import numpy as np

from .figures import number, summary

ELEMENTS = 100_000  # of an array that are looked at
ITEMS = 64  # of a container
DEPTH = 3


def few(array):
    """Shape, and the numbers that tell one array from another."""
    size = int(np.prod(array.shape))
    if size > ELEMENTS:
        array = array.reshape(-1)[::-(-size // ELEMENTS)]
    count, _, *rest = [*summary(array), *[0] * 9][:9]
    return [count, rest[4], rest[5], rest[6]]  # mean, order, spread


def told(value, depth=DEPTH):
    """A number, or what stands for a sequence, a table, a network; None for what is none of these."""
    torch, pandas = sys.modules.get("torch"), sys.modules.get("pandas")
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return value if isinstance(value, bool) else None
    if isinstance(value, (int, float, np.number)):
        return number(value)
    if torch is not None and isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_quantized or value.is_complex() or value.device.type == "meta":
            return None
        flat = value.detach().reshape(-1)
        flat = flat[::-(-len(flat) // ELEMENTS)] if len(flat) > ELEMENTS else flat
        return [str(tuple(value.shape)), *few(flat.float().cpu().numpy())]
    if torch is not None and isinstance(value, torch.nn.Module):
        parameters = [told(parameter)[2:] for parameter in list(value.parameters())[:ITEMS]]
        return [type(value).__name__, *map(number, np.array(parameters, dtype=float).sum(0))] if parameters else None
    if isinstance(value, np.ndarray):
        return [str(value.shape), *few(value)] if value.dtype.kind in "fiub" else None
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        frame = value.to_frame("values") if isinstance(value, pandas.Series) else value
        kinds = [kind.kind for kind in frame.dtypes]
        return {"rows": len(frame), **{str(frame.columns[k]): few(frame.iloc[:, k].to_numpy(dtype=float))
                                       for k in range(min(len(kinds), ITEMS)) if kinds[k] in "fiub"}}
    if isinstance(value, dict) and depth:
        found = {str(key): told(item, depth - 1) for key, item in list(value.items())[:ITEMS]}
        return {key: item for key, item in found.items() if item is not None} or None
    if isinstance(value, (list, tuple)) and depth and value:
        if all(isinstance(item, (int, float)) for item in value[:ELEMENTS]):
            return [str(len(value)), *few(np.array(value[:ELEMENTS], dtype=float))]
        found = [told(item, depth - 1) for item in value[:8]]
        return [str(len(value)), *found] if any(item is not None for item in found) else None
    return None


def state(names, since, last):
    """Name -> the cell after which it held that, and what. What may change in place is of the last cell."""
    found = {}
    for name, value in names.items():
        try:
            what = told(value)
        except Exception:  # an object that only looks like one of these
            continue
        if what is not None:
            found[name] = [since.get(name, last) if isinstance(value, (int, float)) else last, what]
    return found
