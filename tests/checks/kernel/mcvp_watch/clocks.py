"""Uneven clocks and another machine: what depends on them comes out different in a shaken run, and is known by that."""
import os
import platform
import random
import sys
import time
import timeit


def uneven(seed):
    """From now on an hour of these clocks is a minute or a day, and that changes every few times one is read."""
    chance = random.Random(seed)

    def bent(clock):
        state = {"true": clock(), "told": clock(), "rate": 1.0, "left": 0}

        def read():
            now = clock()
            if not state["left"]:
                state["rate"], state["left"] = 20.0 ** chance.uniform(-1, 1), 1 + int(chance.expovariate(1 / 6))
            state["left"] -= 1
            state["told"] += (now - state["true"]) * state["rate"]
            state["true"] = now
            return state["told"]

        return read

    for name in ("perf_counter", "time", "process_time"):  # not monotonic: threads wait by it
        setattr(time, name, bent(getattr(time, name)))
    timeit.default_timer = time.perf_counter
    module = sys.modules.get("torch.utils.benchmark.utils.timer")
    if module is not None:
        module.timer = time.perf_counter


def elsewhere(seed):
    """What a notebook's own code asks of the machine is answered as by another one; libraries are told the truth."""
    def told_to_notebooks(function, other):
        def ask(*args, **kwargs):
            true = function(*args, **kwargs)
            return other(true) if sys._getframe(1).f_globals.get("__name__") == "__main__" else true

        return ask

    os.cpu_count = told_to_notebooks(os.cpu_count, lambda true: (true or 1) + seed)
    for name in ("machine", "system", "release", "platform", "processor", "node", "python_version"):
        setattr(platform, name, told_to_notebooks(getattr(platform, name), lambda true: f"{true}-{seed}"))
    psutil = sys.modules.get("psutil")
    if psutil is not None:
        psutil.cpu_count = told_to_notebooks(psutil.cpu_count, lambda true: (true or 1) + seed)
        psutil.virtual_memory = told_to_notebooks(
            psutil.virtual_memory, lambda true: true._replace(total=true.total * (1 + seed), available=true.total))
