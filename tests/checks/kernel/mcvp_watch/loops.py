"""What every training loop does, seen at the optimizer: gradients, mode, learning rates, rows."""
import functools
import re
import sys
import threading
import weakref

import numpy as np

from .rows import TEST, TRAIN, VAL, spoken, words

TWINS = re.compile(r"^ *assert |assert_close|assert_equal", re.MULTILINE)  # in a cell that may train twins
SEEN_BY_MODE = ("_BatchNorm", "_DropoutNd", "MultiheadAttention")  # base classes of layers that a mode changes


def safely(method):
    """What is watched must run as if it were not: an error of the watch is told, not raised."""
    @functools.wraps(method)
    def call(self, *args):
        try:
            return method(self, *args)
        except Exception as error:
            self.watch.broke(error)

    return call


class Fit:
    """All steps of one optimizer."""

    def __init__(self, cell, optimizer):
        self.cell, self.kind = cell, type(optimizer).__name__
        self.steps = self.wrong_mode = self.kept = self.masks = 0
        self.rows, self.rates, self.sizes = [], [], []
        self.lent = []  # roles that row numbers lent to each of `rows`
        self.start = self.end = None
        self.untracked = 0
        self.paused = False


class Loops:
    def __init__(self, watch):
        self.watch = watch
        self.fits = []
        self.by_optimizer = weakref.WeakKeyDictionary()
        self.schedules = []  # (weak reference or record of each scheduler)
        self.depth = 0
        self.forwards = []  # (parameter ids of the network, sensitive, training) since the last step
        self.backwards = []  # tags of the losses since the last step
        self.consumed = {}  # id of a parameter -> (weak reference, its gradient, version) after a step
        self.untouched = []
        self.stale = {}  # id of a parameter -> (weak reference, its gradient) that holds one of the step before
        self.sensitive = weakref.WeakKeyDictionary()
        self.reads = {}  # cell -> {roles: numbers read off}
        self.hooked = False
        self.handles = []
        self.paused = 0  # how often it was asked that rows are not followed
        self.left = None  # the mode that was left for that
        self.thread = threading.get_ident()

    def stop(self):
        for handle in self.handles:
            handle.remove()

    # --- where rows are not followed: inside a network or a step each operation would cost, and only the end counts

    def pause(self):
        """Until `resume`; both may be nested. Modes that the notebook has entered since stay what they are."""
        self.paused += 1
        mode = self.watch.rows.mode
        if self.paused == 1 and mode is not None and self.on_top(mode):
            mode.__exit__(None, None, None)
            self.left = mode

    def resume(self):
        self.paused = max(self.paused - 1, 0)
        if not self.paused and self.left is not None:
            mode, self.left = self.left, None
            if self.watch.rows.mode is mode:
                mode.__enter__()

    def on_top(self, mode):
        stack = sys.modules["torch"]._C
        count = stack._len_torch_function_stack()
        return count and stack._get_function_stack_at(count - 1) is mode

    def hook(self):
        torch = sys.modules.get("torch")
        if torch is not None:
            self.hook_tracers()
        if self.hooked or torch is None:
            return
        self.hooked = True
        from torch.nn.modules import module as modules
        from torch.optim import lr_scheduler
        from torch.optim import optimizer as optimizers

        self.grad_enabled = torch.is_grad_enabled
        try:
            after = modules.register_module_forward_hook(self.after_forward, with_kwargs=True, always_call=True)
        except TypeError:  # an older PyTorch
            after = modules.register_module_forward_hook(
                lambda module, args, output: self.after_forward(module, args, {}, output), always_call=True)
        self.handles = [
            after, modules.register_module_forward_pre_hook(self.before_forward),
            optimizers.register_optimizer_step_pre_hook(self.before_step),
            optimizers.register_optimizer_step_post_hook(self.after_step)]
        loops = self
        for name in vars(lr_scheduler):
            kind = getattr(lr_scheduler, name)
            if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and "__init__" in vars(kind):
                self.wrap_schedule(kind)

        made = torch.optim.Optimizer.__init__

        @functools.wraps(made)
        def __init__(optimizer, *args, **kwargs):
            if not loops.watch.over:  # rows that this cell has loaded get known before they are trained on
                loops.watch.look()
            return made(optimizer, *args, **kwargs)

        torch.optim.Optimizer.__init__ = __init__
        cleared = torch.optim.Optimizer.zero_grad

        @functools.wraps(cleared)
        def zero_grad(optimizer, *args, **kwargs):
            loops.forget(optimizer)
            loops.pause()
            try:
                return cleared(optimizer, *args, **kwargs)
            finally:
                loops.resume()

        torch.optim.Optimizer.zero_grad = zero_grad
        plain, inside = torch.Tensor.backward, []

        def backward(tensor, *args, **kwargs):
            if inside or loops.watch.over:  # the mode that follows rows calls it a second time
                return plain(tensor, *args, **kwargs)
            inside.append(True)
            try:
                loops.before_backward()
                tag = loops.watch.rows.tag(tensor)
                loops.pause()
                try:
                    out = plain(tensor, *args, **kwargs)
                finally:
                    loops.resume()
                loops.after_backward(tag)
                return out
            finally:
                inside.pop()

        torch.Tensor.backward = backward

    def hook_tracers(self):
        """Also where a cell imported them later."""
        for module, name in (("torch.export", "export"), ("torch.onnx", "export"), ("torch.jit", "trace")):
            function = getattr(sys.modules.get(module), name, None)
            if function is not None and not hasattr(function, "unwatched"):
                setattr(sys.modules[module], name, self.unwatched(function))

    def unwatched(self, function):
        """What traces a network must not trace the watch."""
        @functools.wraps(function)
        def call(*args, **kwargs):
            from torch.nn.modules import module as modules

            hooks = [getattr(modules, name) for name in (
                "_global_forward_pre_hooks", "_global_forward_hooks", "_global_forward_hooks_always_called")]
            kept = [dict(hook) for hook in hooks]
            for hook in hooks:
                hook.clear()
            self.pause()
            try:
                return function(*args, **kwargs)
            finally:
                self.resume()
                for hook, old in zip(hooks, kept):
                    hook.update(old)

        call.unwatched = True
        return call

    def wrap_schedule(self, kind):
        init = kind.__init__
        loops = self

        def __init__(schedule, optimizer, *args, **kwargs):
            init(schedule, optimizer, *args, **kwargs)
            if type(schedule) is kind:
                loops.schedules.append([weakref.ref(schedule), weakref.ref(optimizer), kind.__name__,
                                        loops.watch.cell, total_of(schedule), schedule])

        __init__.__wrapped__ = init
        __init__.__signature__ = __import__("inspect").signature(init)
        kind.__init__ = __init__

    # --- forward

    def before_forward(self, module, args):
        if threading.get_ident() == self.thread:
            self.depth += 1
            if self.depth == 1:
                self.entered(module)

    @safely
    def entered(self, module):
        self.pause()
        if self.grad_enabled():
            sensitive = self.sensitive.get(module)
            if sensitive is None:
                sensitive = self.sensitive[module] = any(
                    any(base.__name__ in SEEN_BY_MODE for base in type(layer).__mro__) for layer in module.modules())
            if len(self.forwards) < 64:
                first = next((id(p) for p in module.parameters() if p.requires_grad), None)
                self.forwards.append((first, sensitive, module.training))

    def after_forward(self, module, args, *rest):
        """Of a network that failed PyTorch gives no keyword arguments."""
        if threading.get_ident() == self.thread:
            self.depth -= 1
            if not self.depth:
                self.passed(args, rest[0] if len(rest) > 1 else {}, rest[-1])

    @safely
    def passed(self, args, kwargs, output):
        """What a network gives comes from the rows that it was given."""
        self.resume()
        rows = self.watch.rows
        if rows.mode is not None and not rows.busy and output is not None:
            rows.mode.made(output, (*args, *kwargs.values()) if kwargs else args)

    # --- backward

    @safely
    def before_backward(self):
        self.untouched = []
        for key, (reference, gradient, version) in list(self.consumed.items()):
            parameter = reference()
            if parameter is None or parameter.grad is not gradient:
                del self.consumed[key]
            elif gradient._version == version:
                self.untouched.append((key, reference, gradient, version))

    @safely
    def after_backward(self, tag):
        self.backwards.append(tag)
        for key, reference, gradient, version in self.untouched:
            if gradient._version != version:
                self.stale[key] = (reference, gradient)
                self.consumed.pop(key, None)

    @safely
    def forget(self, optimizer):
        """Its gradients were cleared."""
        if self.stale:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    self.stale.pop(id(parameter), None)

    def judge_stale(self, fit):
        """A step with a gradient of the step before in it. What others add to it meanwhile (a generator's loss to the
        gradients of its critic) does no harm while it is cleared before it is used."""
        found = [key for key, (reference, gradient) in self.stale.items()
                 if key in fit.owned and reference() is not None and reference().grad is gradient]
        for key in found:
            del self.stale[key]
        if found:
            self.watch.find("loops", "a gradient of the step before was still there when the next was added to it: "
                                     "zero_grad is missing or in the wrong place", ("zero_grad",))

    # --- step

    @safely
    def before_step(self, optimizer, args, kwargs):
        fit = self.by_optimizer.get(optimizer)
        if fit is None:
            fit = self.by_optimizer[optimizer] = Fit(self.watch.cell, optimizer)
            self.fits.append(fit)
            fit.owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            fit.of_input = any(is_picture(p, self.watch.rows.kinds) for group in optimizer.param_groups
                               for p in group["params"][:4])
            fit.start = digest(optimizer)
        self.judge_stale(fit)
        fit.rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups[:4]))
        if all(argument is optimizer for argument in args) and not kwargs:  # a closure is the notebook's
            self.pause()
            fit.paused = True

    @safely
    def after_step(self, optimizer, args, kwargs):
        fit = self.by_optimizer.get(optimizer)
        if fit is None:
            return
        if fit.paused:
            fit.paused = False
            self.resume()
        fit.steps += 1
        for first, sensitive, training in self.forwards:
            if sensitive and not training and first in fit.owned:
                fit.wrong_mode += 1
        self.forwards.clear()
        size = 0
        for tag in self.backwards:
            if tag is None or tag.rows is None:
                fit.untracked += 1
                fit.masks |= tag.mask if tag is not None else 0
            else:
                fit.rows.append(tag.rows)
                fit.lent.append(np.full(len(tag.rows), tag.lent, np.uint8))
                fit.masks |= tag.mask
                size += len(tag.rows)
        if len(fit.sizes) < 10_000:
            fit.sizes.append(size)
        self.backwards.clear()
        if fit.masks & (VAL | TEST) and not fit.of_input:
            self.watch.find("rows", f"rows of {spoken(fit.masks & (VAL | TEST))} reached a training step", ("fit",))
        if len(self.consumed) > 64:
            self.consumed.clear()
        for group in optimizer.param_groups:
            marked = 0
            for parameter in group["params"]:
                if parameter.grad is not None and not parameter.grad.is_sparse:
                    self.consumed[id(parameter)] = (weakref.ref(parameter), parameter.grad, parameter.grad._version)
                    marked += 1
                    if marked == 2:
                        break

    def looked(self, tag):
        """A number was read off a tensor that came from rows."""
        cell = self.reads.setdefault(self.watch.cell, {})
        cell[tag.mask] = cell.get(tag.mask, 0) + 1

    # --- the end

    def end_cell(self):
        self.backwards.clear()
        self.forwards.clear()
        self.depth = 0
        if self.paused:  # a step or a network failed
            self.paused = 1
            self.resume()
        for optimizer, fit in list(self.by_optimizer.items()):
            if fit.steps and fit.end is None:
                fit.end = digest(optimizer)
        for entry in self.schedules:
            if entry[5] is not None:
                self.close(entry)
        self.compare_fits()

    def close(self, entry):
        """A scheduler is judged when the cell that made it is over."""
        reference, optimizer, kind, cell, total, schedule = entry
        entry[5] = None
        steps, fit = int(schedule.last_epoch), self.by_optimizer.get(optimizer())
        entry.append(steps)
        if fit is None or not fit.steps:
            return
        if kind == "ReduceLROnPlateau":
            return
        if not steps:
            self.watch.find("loops", f"{kind} was made and never stepped, the optimizer took {fit.steps} steps",
                            ("schedule",))
        elif total and fit.steps > 1 and not total - 1 <= steps <= total:
            self.watch.find("loops", f"{kind} ends after {total} steps and was stepped {steps} times", ("schedule",))

    def compare_fits(self):
        """Trainings of one cell that came out the same to the last bit: a seed or a setting was not used.

        A cell that asserts something may have trained twins for it.
        """
        cell = self.watch.cell
        ends = {}
        for fit in self.fits:
            if fit.cell == cell and fit.steps > 1 and fit.end not in (None, fit.start):
                ends.setdefault((fit.end, fit.kind), []).append(fit)
        for fits in ends.values():
            if len(fits) > 1 and not TWINS.search(self.watch.source):
                self.watch.find("loops", f"{len(fits)} trainings of this cell ended with the same parameters to the "
                                         "last bit: a seed or a setting is not used", ("identical",))
        for fit in self.fits:
            if fit.cell == cell and fit.wrong_mode:
                self.watch.find("loops", "a network with dropout or batch normalization was trained in evaluation "
                                         "mode", ("mode",))

    def close_all(self):
        """What only the whole notebook shows."""
        test = any(mask & TEST for kinds in self.reads.values() for mask in kinds)
        test = test or not any(fit.masks & TRAIN for fit in self.fits)  # what is trained in NumPy is not followed
        born, since = (cells.get(TEST, 1e9) for cells in (self.watch.rows.born_in, self.watch.rows.numbers_since))
        if born < since < 1e9 and not test:
            spoken_of = [key for key in self.watch.results() if "test" in words(key)]
            if spoken_of:
                self.watch.find("rows", f"results speak of a test ({', '.join(spoken_of[:3])}), and no number was read "
                                        "off test rows", ("test",))

    def story(self):
        """What went where, a sentence for each group of equal trainings and each kind of number."""
        told = []
        groups = {}
        for fit in self.fits:
            if fit.steps:
                groups.setdefault((fit.cell, self.told(fit)), []).append(fit)
        for (cell, text), fits in groups.items():
            orders = len({np.concatenate(f.rows).tobytes() for f in fits if f.rows})
            starts = len({f.start for f in fits})
            told.append([cell, f"{len(fits)} trainings from {starts} starting points in {orders} orders of rows: {text}"
                         if len(fits) > 1 else f"a training: {text}"])
        for cell, kinds in self.reads.items():
            for mask in sorted(set(kinds) - {0}):
                told.append([cell, f"numbers were read off {spoken(mask)} rows"])
        for _, _, kind, cell, total, _, *steps in self.schedules:
            text = f"{kind} for {total or 'any number of'} steps, stepped {steps[0] if steps else 0} times"
            if [cell, text] not in told:
                told.append([cell, text])
        return sorted(told, key=lambda item: (item[0], item[1]))

    def told(self, fit):
        rows = np.concatenate(fit.rows) if fit.rows else np.empty(0, np.int64)
        roles = self.watch.rows.roles[rows] | (np.concatenate(fit.lent) if fit.lent else np.uint8(0))
        by_role = []
        for role in (TRAIN, VAL, TEST):
            some = rows[roles & role != 0]
            if len(some):
                by_role.append(f"{len(some)} of {spoken(role)} ({len(np.unique(some))} different)")
        first, last = fit.rates[0], fit.rates[-1]
        tops = max(rate[0] for rate in fit.rates)
        sizes = sorted(set(fit.sizes))
        if fit.kind == "LBFGS":  # it looks at the rows as often as its line search needs
            return f"LBFGS, {', '.join(text.partition(' of ')[2] for text in by_role) or 'rows of no known set'}"
        return (f"{fit.kind}, {fit.steps} steps of {'/'.join(map(str, sizes[:4]))} rows, "
                f"{', '.join(by_role) or 'of no known set'}; rates "
                f"{short(first)} to {short(last)}, at most {tops:.4g}")


def short(rates):
    return "/".join(f"{rate:.4g}" for rate in rates)


def digest(optimizer):
    """A number for the parameters of an optimizer that changes when any of them does."""
    total = []
    for group in optimizer.param_groups:
        for parameter in group["params"][:6]:
            data = parameter.detach()
            total.append(float(data.double().sum()) if data.numel() < 2_000_000 else float(data.flatten()[:1000].sum()))
            total.append(float(data.flatten()[0]) if data.numel() else 0.0)
    return tuple(total)


def is_picture(tensor, kinds):
    """Whether what an optimizer changes is a picture, as an attack does, and no network."""
    if type(tensor).__name__ == "Parameter":
        return False
    shape = tuple(tensor.shape)
    return len(shape) >= 3 or any(known in (shape, shape[1:]) for known, _ in kinds if len(known) > 1)


def total_of(schedule):
    for name in ("total_steps", "total_iters", "T_max"):
        value = getattr(schedule, name, None)
        if isinstance(value, int):
            return value
    return None
