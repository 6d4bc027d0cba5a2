"""Clocks that run unevenly: what depends on time comes out different in each such run, and is known by that."""
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
