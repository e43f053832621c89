"""One run of a sweep, trained by two processes that the command line joins.

Losses may differ from those of one process by the order of float32 sums, which 100 steps carry on: 2e-4 nats in the last row
of the log, so 1e-3 bounds it. Rows fed twice or a shard out of place move them by 1e-2 and more.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("jax", reason="training needs the extra `train`")

from test_train_parallel import as_slurm, free_port

from relscale.plan.recipes import SMALL, load_plan, plan_isoflop, save_plan
from relscale.sweep.multihost import train_together
from relscale.sweep.prepare import TextConfig
from relscale.sweep.store import connect, read_record
from relscale.tables import read_table

CHOICES = TextConfig(("code", "bible"), 100_000, 4_000)
TEXT = ("--domains", "code", "bible", "--train-bytes", "100000", "--heldout-bytes", "4000")


def start(*arguments, devices=2, **variables):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, "-c", "from relscale.cli import main; raise SystemExit(main())"]
        + [str(each) for each in arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def together(*arguments):
    """The command in both of two processes, as srun starts them."""
    port = free_port()
    both = [start(*arguments, "--join", **as_slurm(i, port)) for i in range(2)]
    try:
        return [end(process) for process in both]
    finally:
        for process in both:
            process.kill()


def losses(folder, run):
    lines = (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss_nats"] for line in lines]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two sizes at one budget; the last is the one for many hosts."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan = plan_isoflop((4e9,), dataclasses.replace(SMALL, vocab=320, seq_len=32, max_sizes=2))
    runs = [dataclasses.replace(run, batch_size=4, num_steps=100) for run in plan.runs]
    path.write_text(save_plan(dataclasses.replace(plan, runs=tuple(runs))))
    return path


def test_two_processes_train_a_run_as_one_does(plan, tmp_path):
    one = load_plan(plan.read_text())
    one, plan = dataclasses.replace(one, runs=one.runs[-1:]), tmp_path / "one.json"
    plan.write_text(save_plan(one))
    run, shared, alone = one.runs[0].run_id, tmp_path / "a", tmp_path / "b"
    first, second = together("train", plan, run, "--store", shared, *TEXT)
    assert first[0] == second[0] == 0, first[2][-2000:] + second[2][-2000:]
    assert (
        first[1].splitlines()[-1] == f"run {run}: finished" and run not in second[1]
    )  # Gloo talks, too
    assert train_together(one, alone, run, CHOICES).outcome == "finished"  # on the one device here
    np.testing.assert_allclose(losses(shared, run), losses(alone, run), atol=1e-3)
    past = read_record(connect(shared), f"runs/{run}/lease.json")["past"]
    assert [each["outcome"] for each in past] == ["finished"]


def test_a_slip_is_one_line_in_each_process(plan, tmp_path):
    for code, _, err in together("train", plan, "c1-d1", "--store", tmp_path / "a", *TEXT):
        assert code == 2 and "run 'c1-d1': not in the plan" in err.splitlines()[-1]
        assert "Traceback" not in err


def test_processes_of_srun_that_do_not_join_are_told_to(plan, tmp_path):
    process = start("train", plan, "any", "--store", tmp_path / "a", *TEXT, **as_slurm(0, 61440))
    code, _, err = end(process)
    assert (
        code == 2
        and err
        == "relscale: srun started several processes: give --join, so that they train together\n"
    )


@pytest.mark.long
def test_a_sweep_leaves_a_run_to_the_hosts_that_have_it(plan, tmp_path):
    """The hosts begin; a sweep comes meanwhile, does the other run, waits, and evaluates both."""
    runs, store = load_plan(plan.read_text()).runs, tmp_path / "a"
    run, port = runs[-1].run_id, free_port()
    both = [
        start("train", plan, run, "--store", store, *TEXT, "--join", **as_slurm(i, port))
        for i in range(2)
    ]
    try:
        while not (store / "runs" / run / "lease.json").exists():
            assert both[0].poll() is None, end(both[0])
            time.sleep(0.1)
        code, _, err = end(start("sweep", plan, "--store", store, *TEXT, devices=1))
        assert code == 0, err[-2000:]
        assert [end(process)[0] for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    past = read_record(connect(store), f"runs/{run}/lease.json")["past"]
    assert [each["outcome"] for each in past] == ["finished", "finished"]
    assert len(read_table(store / "scores.parquet")) == 2 * len(runs)


@pytest.mark.long
def test_one_process_is_asked_to_end_and_the_same_command_goes_on(plan, tmp_path):
    """SIGTERM to the second alone: both stop at one logged step, with a checkpoint that the next call starts from."""
    one = load_plan(plan.read_text())
    slow = dataclasses.replace(one.runs[-1], num_steps=160)
    (tmp_path / "one.json").write_text(save_plan(dataclasses.replace(one, runs=(slow,))))
    command = ("train", tmp_path / "one.json", slow.run_id, "--store", tmp_path / "a", *TEXT)
    folder, port = tmp_path / "a" / "runs" / slow.run_id, free_port()
    both = [start(*command, "--join", **as_slurm(i, port)) for i in range(2)]
    try:
        while (
            not (folder / "metrics.jsonl").exists() or len(losses(tmp_path / "a", slow.run_id)) < 3
        ):
            assert both[1].poll() is None, end(both[1])
            time.sleep(0.1)
        both[1].terminate()
        ended = [end(process) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [code for code, _, _ in ended] == [1, 1] and ": preempted (" in ended[0][1]
    before = losses(tmp_path / "a", slow.run_id)
    assert 2 <= len(before) < 8
    assert [code for code, _, _ in together(*command)] == [0, 0]
    after = losses(tmp_path / "a", slow.run_id)
    assert len(after) == 8 and after[: len(before)] == before
    past = read_record(connect(tmp_path / "a"), f"runs/{slow.run_id}/lease.json")["past"]
    assert [each["outcome"] for each in past] == ["preempted", "finished"]
