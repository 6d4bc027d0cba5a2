"""The mode that hands rows on from the arguments of each operation of PyTorch to its result."""
import numpy as np


def make_mode(torch, registry):
    from torch.overrides import TorchFunctionMode

    from .rows import Tag

    Tensor = torch.Tensor
    alive, put = registry.alive, registry.put

    def tag_of(value):
        entry = alive.get(id(value))
        return entry[1] if entry is not None else None

    def tags_in(args):
        found = []
        for arg in args[:3]:
            entry = alive.get(id(arg))
            if entry is not None:  # a tensor, or an array that becomes one
                found.append((arg, entry[1]))
            elif isinstance(arg, (list, tuple)) and len(arg) <= 512:
                for item in arg:
                    entry = alive.get(id(item))
                    if entry is not None:
                        found.append((item, entry[1]))
            elif isinstance(arg, dict) and len(arg) <= 64:
                for item in arg.values():
                    entry = alive.get(id(item))
                    if entry is not None:
                        found.append((item, entry[1]))
        return found

    def same(rows, known):
        return rows is known or len(rows) == len(known) and bool((rows == known).all())

    def merged(found):
        mask, rows, lent = 0, [], 0
        for _, tag in found:
            mask |= tag.mask
            lent |= tag.lent
            if tag.rows is not None and not any(same(tag.rows, known) for known in rows):
                rows.append(tag.rows)
        if not rows or sum(map(len, rows)) > 100_000:
            return Tag(None, mask, False, lent)
        return Tag(rows[0] if len(rows) == 1 else np.concatenate(rows), mask, False, lent)

    def spread(out, found, deep=False):
        """The general rule: a result as long as the rows is of these rows in order, any other was made from them."""
        if isinstance(out, Tensor):
            if tag_of(out) is not None:
                return
            aligned = next((pair for pair in found if pair[1].aligned), None)
            if aligned is not None and out.dim() and len(out) == len(aligned[1].rows):
                tag = aligned[1]
                mask, lent = tag.mask, tag.lent
                for _, other in found:
                    mask |= other.mask
                    lent |= other.lent
                put(out, tag if mask == tag.mask else Tag(tag.rows, mask, True, lent))
            else:
                put(out, merged(found))
        elif isinstance(out, (tuple, list)):
            for item in out:
                if isinstance(item, (Tensor, *((dict, tuple, list) if deep else ()))):
                    spread(item, found, deep)
        elif deep and isinstance(out, dict):
            spread(tuple(out.values()), found, True)

    def on_getitem(args, out, found):
        if not isinstance(out, Tensor):
            return
        source, index = args[0], args[1]
        first = index[0] if isinstance(index, tuple) and index else index
        chosen = tag_of(first) if isinstance(first, (Tensor, np.ndarray)) else None
        if chosen is not None and chosen.aligned and "bool" not in str(first.dtype):
            source_tag = tag_of(source)
            if source_tag is None or not source_tag.aligned or first.ndim > 1:
                if out.dim() and len(out) == len(chosen.rows):
                    put(out, chosen)
                else:
                    put(out, Tag(chosen.rows, chosen.mask, False, chosen.lent))
                return
        tag = tag_of(source)
        if tag is None:
            return
        if not tag.aligned:
            put(out, tag)
            return
        if first is None or first is Ellipsis or isinstance(first, bool):
            spread(out, [(source, tag)])
            return
        try:
            if isinstance(first, Tensor):
                rows = tag.rows[first.detach().cpu().numpy()]
            elif isinstance(first, (slice, int, list, range, np.ndarray)):
                rows = tag.rows[first if not isinstance(first, range) else list(first)]
            else:
                spread(out, [(source, tag)])
                return
        except (IndexError, TypeError, ValueError):
            spread(out, [(source, tag)])
            return
        rows = np.atleast_1d(rows)
        lent = tag.lent | (chosen.lent if chosen is not None else 0)  # `images[val_rows]`: what these rows are for
        if rows.ndim > 1:
            rows = rows.reshape(len(rows), -1)[:, 0] if rows.shape[1] == 1 else rows.ravel()
        aligned = bool(out.dim()) and len(out) == len(rows) and not isinstance(first, int)
        put(out, Tag(rows, registry.mask(rows), aligned, lent))

    def on_split(args, out, found):
        tag = tag_of(args[0])
        if tag is None or not isinstance(out, (tuple, list)):
            return
        if not tag.aligned or sum(len(o) if o.dim() else 1 for o in out) != len(tag.rows):
            spread(out, [(args[0], tag)])
            return
        start = 0
        for item in out:
            length = len(item) if item.dim() else 1
            rows = tag.rows[start:start + length]
            start += length
            put(item, Tag(rows, registry.mask(rows), bool(item.dim()), tag.lent))

    def on_unbind(args, out, found):
        tag = tag_of(args[0])
        if tag is None:
            return
        if tag.aligned and len(out) == len(tag.rows):
            for k, item in enumerate(out):
                rows = tag.rows[k:k + 1]
                put(item, Tag(rows, registry.mask(rows), False, tag.lent))
        else:
            spread(out, [(args[0], tag)])

    def on_cat(args, out, found):
        if not found or not isinstance(out, Tensor):
            return
        parts = [tag_of(item) for item in args[0]]
        if all(part is not None and part.rows is not None for part in parts):
            rows = np.concatenate([part.rows for part in parts])
            mask = lent = 0
            for part in parts:
                mask |= part.mask
                lent |= part.lent
            put(out, Tag(rows, mask, bool(out.dim()) and len(out) == len(rows), lent))
        else:
            spread(out, found)

    def on_setitem(args, out, found):
        target, index, value = args[0], args[1], args[2]
        tag = tag_of(value) if isinstance(value, Tensor) else None
        if tag is None or tag.rows is None:
            return
        first = index[0] if isinstance(index, tuple) and index else index
        own = tag_of(target)
        if own is None or not own.aligned:
            if not target.dim():
                return
            blank = registry.number("blank", [0])
            own = Tag(np.full(len(target), blank[0]), 0, True)
        rows = own.rows.copy()
        try:
            where = first.detach().cpu().numpy() if isinstance(first, Tensor) else first
            part = rows[where]
            rows[where] = tag.rows if tag.aligned and np.size(part) == len(tag.rows) else tag.rows[0]
        except (IndexError, TypeError, ValueError):
            return
        put(target, Tag(rows, registry.mask(rows) | own.mask | tag.mask, True, own.lent | tag.lent))

    def on_read(args, out, found):
        tag = tag_of(args[0])
        if tag is None:
            return
        if isinstance(out, list):
            if not tag.aligned or len(out) <= 64:
                for value in out:
                    registry.read_off(args[0], tag, value)
            return
        registry.read_off(args[0], tag, out)

    def on_numpy(args, out, found):
        tag = tag_of(args[0])
        if tag is not None and isinstance(out, np.ndarray):
            put(out, tag)
            registry.watch.loops.looked(tag)

    def on_equal(args, out, found):
        spread(out, found)
        if len(args) == 2 and all(isinstance(arg, Tensor) for arg in args):
            for judged, other in (args, args[::-1]):
                rows, constant = tag_of(judged), tag_of(other)
                if rows is None or constant is None or not rows.aligned or other.dim():
                    continue
                if rows.mask in (2, 4) and constant.mask == rows.mask and not constant.aligned \
                        and constant.rows is not None and len(constant.rows) > 1 and len(rows.rows) > 1:
                    registry.watch.find("rows", "an answer that was taken from the rows of "
                                        f"{'validation' if rows.mask == 2 else 'test'} is judged on these same rows",
                                        ("baseline",))

    def on_values(args, out, found):
        """Values that occur, the largest among them: no answer that was taken from the rows."""
        tag = tag_of(args[0]) if args else None
        if tag is None:
            return
        if isinstance(out, Tensor) and not (tag.aligned and out.dim() and len(out) == len(tag.rows)):
            put(out, Tag(None, tag.mask, False, tag.lent))
        else:
            spread(out, [(args[0], tag)])

    handlers = {}
    for name, handler in {
            "__getitem__": on_getitem, "split": on_split, "chunk": on_split, "tensor_split": on_split,
            "split_with_sizes": on_split, "unbind": on_unbind, "__iter__": None, "__setitem__": on_setitem,
            "item": on_read, "tolist": on_read, "__float__": on_read, "numpy": on_numpy,
            "unique": on_values, "max": on_values, "min": on_values, "amax": on_values, "amin": on_values,
            "eq": on_equal, "__eq__": on_equal}.items():
        for owner in (Tensor, torch):
            function = getattr(owner, name, None)
            if function is not None and handler is not None:
                handlers[function] = handler
    for function in (torch.cat, torch.concat, torch.stack, torch.vstack):
        handlers[function] = on_cat
    skipped = {Tensor.requires_grad_, Tensor.zero_, Tensor.size, Tensor.dim, Tensor.__len__, Tensor.numel}

    class Follow(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **kwargs) if kwargs else func(*args)
            if registry.busy:
                return out
            handler = handlers.get(func)
            if handler is not None:
                try:
                    handler(args, out, tags_in(args) if handler in (on_cat, on_equal) else None)
                except Exception as error:  # what is watched must run as if it were not
                    registry.watch.broke(error)
                return out
            if isinstance(out, (Tensor, tuple, list)) and func not in skipped:
                try:
                    found = tags_in(args)
                    if found:
                        spread(out, found)
                except Exception as error:
                    registry.watch.broke(error)
            return out

        @staticmethod
        def made(out, args):
            """What a network made of its arguments."""
            try:
                found = tags_in(args[:8])
                if found:
                    spread(out, found, True)
            except Exception as error:
                registry.watch.broke(error)

    return Follow()
