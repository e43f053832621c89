"""Two single-threaded processes pinned to a core each, or one process with two threads: which trains faster?

Alternates the two ways on the same shapes, and prints steps per second of each and the ratio.
Run on a quiet machine: python benchmarks/processes.py
"""

import argparse
import os
import subprocess
import sys
import time

WORKER = """
import dataclasses, sys, time
import numpy as np
from relscale.model.optim import hyper_of
from relscale.plan.recipes import SMALL, model_of_width, plan_run
from relscale.model.training import start_state, train_step

hidden, batch, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
run = dataclasses.replace(plan_run(4e11, 32, SMALL), model=model_of_width(hidden, SMALL), batch_size=batch)
state, hyper = start_state(run), hyper_of(run.optim, run.num_steps)
tokens = np.random.default_rng(0).integers(0, SMALL.vocab, (batch, run.seq_len + 1)).astype(np.int32)
for _ in range(3):
    state, metrics = train_step(state, tokens, hyper)
metrics.loss.block_until_ready()
print("ready", flush=True)
sys.stdin.readline()
start, steps = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    state, metrics = train_step(state, tokens, hyper)
    metrics.loss.block_until_ready()
    steps += 1
print(steps / (time.perf_counter() - start), flush=True)
"""


def steps_per_second(
    cores: list[set[int]], flags: str, shape: tuple[int, int], seconds: float
) -> float:
    """Summed rate of one worker per set of cores, all started at once."""
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    workers = [
        subprocess.Popen(
            [
                "taskset",
                "-c",
                ",".join(map(str, sorted(mine))),
                sys.executable,
                "-c",
                WORKER,
                *map(str, shape),
                str(seconds),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for mine in cores
    ]
    for worker in workers:
        assert worker.stdout.readline().strip() == "ready"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="measured seconds of each way and round"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="alternating rounds; the median is printed"
    )
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    level = "--xla_backend_optimization_level=1"
    print(
        f"{'hidden':>6} {'batch':>5} {'one process, 2 threads':>23} {'two pinned processes':>21} {'ratio':>6}"
    )
    for shape in ((24, 8), (72, 4), (256, 8)):
        one, two = [], []
        for _ in range(options.rounds):
            one.append(steps_per_second([set(cores)], level, shape, options.seconds))
            single = f"--xla_cpu_multi_thread_eigen=false {level}"
            two.append(steps_per_second([{c} for c in cores], single, shape, options.seconds))
        one, two = sorted(one)[len(one) // 2], sorted(two)[len(two) // 2]
        print(
            f"{shape[0]:>6} {shape[1]:>5} {one:>17.1f} /s {two:>17.1f} /s {two / one:>7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - start:.0f} s")
