"""A sweep that is killed, disturbed and damaged ends with the tables of one that was left alone."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from s3_server import bucket
from sweep_toys import toy_job, toy_runs, toy_sweep

from relscale import train_commands
from relscale.cli import main
from relscale.core import Preempted, UserError, human_time
from relscale.plan.recipes import SMALL, Plan, load_plan, save_plan
from relscale.sweep.attempts import Stopwatch, execute
from relscale.sweep.driver import RetryPolicy, SweepResult, _Tries, next_run, program_key
from relscale.sweep.executors import open_executor
from relscale.sweep.jobs import make_tables
from relscale.sweep.leases import AttemptEnd, take
from relscale.sweep.recovery import drop_snapshots
from relscale.sweep.status import SweepStatus, run_status, sweep_status
from relscale.sweep.store import connect, read_record, seal

TOYS = Path(__file__).with_name("sweep_toys.py")
TABLES = ("runs.parquet", "scores.parquet")


def tables(where) -> list[bytes]:
    return [connect(where).find(name).content for name in TABLES]


def start(where, num_runs: int, log: Path, *, workers: int = 2, row_s: float = 0.02):
    """A driver in a process of its own, as a shell would start it."""
    environment = {**os.environ, "TOY_LOG": str(log), "TOY_ROW_S": str(row_s)}
    return subprocess.Popen(
        [sys.executable, TOYS, str(where), str(num_runs), str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(pid: int) -> list[int]:
    """Children of a driver that are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


def counted(log: Path) -> Counter:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line for line in lines if line.startswith("finish"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Tables of six toy runs that nobody disturbed."""
    where = tmp_path_factory.mktemp("quiet") / "store"
    driver = start(where, 6, where.parent / "log")
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    return where


def test_twelve_kills_change_nothing(quiet, tmp_path):
    """Workers and driver are killed by -9 at random moments: same bytes, no run trained twice to its end."""
    where, log, rng, kills = tmp_path / "store", tmp_path / "log", random.Random(0), Counter()
    driver = start(where, 6, log)
    while sum(kills.values()) < 12 or driver.poll() is None:
        if driver.poll() is not None:
            assert driver.returncode in (0, -9), driver.stderr.read()
            if (where / "runs.parquet").exists() and driver.returncode == 0:
                break
            driver = start(where, 6, log)
        time.sleep(rng.uniform(0.2, 0.7))
        victims = workers_of(driver.pid)
        if sum(kills.values()) < 12 and victims:
            who = "driver" if rng.random() < 0.3 else "worker"
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver.pid if who == "driver" else rng.choice(victims), signal.SIGKILL)
                kills[who] += 1
            if who == "driver":
                driver.wait()
    driver.communicate(timeout=120)
    assert kills["driver"] >= 1 and kills["worker"] >= 3, kills
    assert tables(where) == tables(quiet)
    assert set(counted(log).values()) <= {1}, "a run was trained twice to its end"
    leases = [read_record(connect(where), f"runs/{run.run_id}/lease.json") for run in toy_runs(6)]
    ends = [[end["outcome"] for end in lease["past"]] for lease in leases]
    assert any("lost" in each for each in ends)
    # a kill between a run's result and the end of its lease leaves a finished run's lease with its dead owner
    for lease, each in zip(leases, ends, strict=True):
        assert each.count("finished") == (lease["state"] == "free"), (lease, each)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_two_drivers_share_the_work(quiet, tmp_path, kind):
    """Two drivers on one store: each run is trained once, both end well, and both did some."""
    with bucket() if kind == "bucket" else contextlib.nullcontext(tmp_path / "store") as where:
        logs = [tmp_path / "a", tmp_path / "b"]
        drivers = [start(where, 6, log, row_s=0.1) for log in logs]
        ended = [driver.communicate(timeout=170) for driver in drivers]
        assert [d.returncode for d in drivers] == [0, 0], ended
        assert tables(where) == tables(quiet)
        done = [counted(log) for log in logs]
        assert set((done[0] + done[1]).values()) == {1} and all(done), done


def test_in_a_bucket_another_machine_goes_on(quiet, tmp_path):
    """A driver with its workers is killed, and what it had on its disk with it: the next goes on from the bucket."""
    with bucket() as where:
        log, scratch = tmp_path / "log", [tmp_path / "one", tmp_path / "two"]
        os.environ["RELSCALE_SCRATCH"] = str(scratch[0])
        try:
            driver = start(where, 6, log, row_s=0.15)
            store, end = connect(where), time.monotonic() + 60
            while time.monotonic() < end and len(store.names("runs/run-4/snapshots")) < 4:
                time.sleep(0.1)
            os.killpg(driver.pid, signal.SIGKILL)
            driver.communicate()
            os.environ["RELSCALE_SCRATCH"] = str(scratch[1])
            driver = start(where, 6, log)
            out, err = driver.communicate(timeout=120)
        finally:
            os.environ.pop("RELSCALE_SCRATCH")
        assert driver.returncode == 0, err
        assert tables(where) == tables(quiet)
        begun = [
            line.split() for line in log.read_text().splitlines() if line.startswith("begin run-4 ")
        ]
        assert int(begun[0][2]) == 0 and int(begun[-1][2]) >= 20, begun
        assert not list(scratch[1].glob("relscale-*/attempt-*"))


def test_sigterm_leaves_a_checkpoint_and_the_next_goes_on(quiet, tmp_path):
    where, log = tmp_path / "store", tmp_path / "log"
    driver = start(where, 6, log, row_s=0.1)
    while not list(where.glob("runs/*/checkpoints/4*")):
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.05)
    begun = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=30)
    assert driver.returncode != 0 and time.monotonic() - begun < 10  # well within any grace period
    store = connect(where)
    leases = {r.run_id: read_record(store, f"runs/{r.run_id}/lease.json") for r in toy_runs(6)}
    stopped = {i: e for i, e in leases.items() if e and e["past"][-1]["outcome"] == "preempted"}
    assert stopped and all(e["state"] == "free" for e in stopped.values())
    for name, lease in stopped.items():
        assert (where / f"runs/{name}/checkpoints/{lease['note']['step']}").is_dir()
    driver = start(where, 6, log)
    driver.communicate(timeout=60)
    assert tables(where) == tables(quiet)
    lines = log.read_text().splitlines()
    for name, lease in stopped.items():
        assert f"begin {name} {lease['note']['step']}" in lines  # not a step was lost


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 2])


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("runs/run-1/result.json", "result.json: damaged"),
        ("runs/run-1/scores/toy.json", "toy.json: damaged"),
        ("runs/run-1/lease.json", ""),
        ("runs.parquet", "runs.parquet: damaged"),
        ("scores.parquet", "scores.parquet: damaged"),
        ("tables.json", ""),
    ],
)
def test_a_damaged_file_of_a_finished_sweep_is_named_and_mended(quiet, tmp_path, harm, name, named):
    where = tmp_path / "store"
    subprocess.run(["cp", "-r", quiet, where], check=True)
    harm(where / name)
    _, notes = toy_sweep(where, toy_runs(6))
    assert tables(where) == tables(quiet)
    assert any(named in note for note in notes) if named else True, notes


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("name", ["model/state", "metrics.jsonl"])
def test_a_damaged_model_is_trained_again_when_it_is_needed(
    quiet, tmp_path, monkeypatch, harm, name
):
    """With its scores gone a run is evaluated anew, for which its model must be whole."""
    where, log = tmp_path / "store", tmp_path / "log"
    subprocess.run(["cp", "-r", quiet, where], check=True)
    harm(where / "runs/run-1" / name)
    (where / "runs/run-1/scores/toy.json").unlink()
    monkeypatch.setenv("TOY_LOG", str(log))
    _, notes = toy_sweep(where, toy_runs(6))
    assert tables(where) == tables(quiet)
    assert any(f"run-1/{name}: damaged" in note for note in notes), notes
    assert counted(log) == {"finish run-1": 1}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metrics.jsonl", lambda b: b.replace(b"0.", b"0.1", 1)),
        ("metrics.jsonl", lambda b: b[: len(b) // 2]),
        ("metrics.sums", lambda b: b[: len(b) // 3]),
        ("checkpoints/80/state", lambda b: b"0" + b[1:]),
        ("key", lambda b: b"x" + b[1:]),
    ],
)
def test_a_damaged_file_of_a_run_in_the_making(quiet, tmp_path, name, change):
    """A run is stopped half way and one of its files changed: its result is that of the quiet sweep."""
    run, where = toy_runs(6)[1], tmp_path / "store"
    driver = start(where, 6, tmp_path / "log", row_s=0.05)
    while not (where / "runs/run-1/checkpoints/80").exists():
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    path = where / "runs/run-1" / name
    for newer in (where / "runs/run-1/checkpoints").glob("[1-9][0-9][0-9]"):
        subprocess.run(["rm", "-r", newer], check=True)
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with open_executor("local", 1) as pool:
        assert pool.submit(execute, toy_job(where), run).result().outcome == "finished"
    for record in ("result.json", "scores/toy.json"):
        found, wanted = (connect(w).find(f"runs/run-1/{record}").content for w in (where, quiet))
        assert found == wanted


def test_failures_have_reasons_and_stop_nobody(tmp_path):
    runs = toy_runs(2, "killer", "hungry", "clumsy", "wild", steps=100)
    said, where = [], tmp_path / "store"
    result, _ = toy_sweep(where, runs, retries=RetryPolicy(2, 1, 1), say=said.append)
    assert {i: r["status"] for i, r in result.results.items()} == {
        "run-0": "finished",
        "run-1": "finished",
        "wild": "diverged",
    }
    assert {i: f[0] for i, f in result.failed.items()} == {
        "killer": "lost",
        "hungry": "out-of-memory",
        "clumsy": "failed",
    }
    assert "ZeroDivisionError: a defect" in result.failed["clumsy"][1]
    assert "not finite" in result.reasons()["wild"]
    assert sum("killer" in line and "retried" in line for line in said) == 2
    status = dict(pd.read_parquet(where / "runs.parquet")[["run_id", "status"]].to_numpy())
    assert status["killer"] == "lost" and status["wild"] == "diverged"
    assert "ZeroDivisionError" in (where / "runs/clumsy/error.txt").read_text()
    shown = sweep_status(where)
    assert shown.counts == {
        "finished": 2, "diverged": 1, "failed": 1, "silent": 1, "out-of-memory": 1
    }  # fmt: skip
    page = shown.to_html()
    assert "ZeroDivisionError" in page
    # what workers printed is kept, that of one killed by -9 too, and named where it is asked for
    output = f"{where}/logs/clumsy.txt"
    assert result.failed["clumsy"][1].endswith(f"its output: {output}") and output in page
    kept = Path(output).read_text()
    assert kept.count("--- attempt") == kept.count("ZeroDivisionError: a defect") == 2
    assert f"{where}/logs/killer.txt" in page and f"{where}/logs/run-0.txt" not in page
    assert (where / "logs/killer.txt").read_text().count("--- attempt") == 3


def test_a_task_that_is_added_trains_nothing_again(quiet, tmp_path, monkeypatch):
    where, log = tmp_path / "store", tmp_path / "log"
    subprocess.run(["cp", "-r", quiet, where], check=True)
    monkeypatch.setenv("TOY_LOG", str(log))
    toy_sweep(where, toy_runs(6), tasks=("toy", "other"))
    said = log.read_text().splitlines()
    assert sorted(said) == sorted(f"evaluate run-{i} other" for i in range(6))
    assert len(pd.read_parquet(where / "scores.parquet")) == 24


def test_a_run_of_another_plan_is_not_taken_for_this_one(quiet, tmp_path, monkeypatch):
    where, log = tmp_path / "store", tmp_path / "log"
    subprocess.run(["cp", "-r", quiet, where], check=True)
    monkeypatch.setenv("TOY_LOG", str(log))
    runs = list(toy_runs(6))
    runs[2] = dataclasses.replace(runs[2], seed=77)
    toy_sweep(where, runs)
    assert counted(log) == {"finish run-2": 1}
    assert tables(where)[1] != tables(quiet)[1]


def test_a_worker_asked_to_end_is_replaced(tmp_path):
    """SIGTERM to one worker: its run goes on in another process, and the sweep never notices."""
    where, log = tmp_path / "store", tmp_path / "log"
    driver = start(where, 3, log, row_s=0.1)
    while not list(where.glob("runs/*/checkpoints/4*")):
        time.sleep(0.05)
    os.kill(workers_of(driver.pid)[0], signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 0 and "preempted; to be resumed" in out, err
    assert set(counted(log).values()) == {1} and len(counted(log)) == 3


def test_the_next_run_is_the_longest_whose_program_is_not_being_compiled():
    a, b = toy_runs(2)
    b = dataclasses.replace(b, batch_size=2 * b.batch_size)
    again = dataclasses.replace(a, run_id="again", seed=9)
    keys = {r.run_id: program_key(r) for r in (a, b, again)}
    assert keys[a.run_id] == keys["again"] != keys[b.run_id]
    assert next_run([again, b], set(), keys) is again
    assert next_run([again, b], {keys["again"]}, keys) is b
    assert next_run([again], {keys["again"]}, keys) is again


@pytest.mark.parametrize("run_id", ["../../etc/cron", "/tmp/x", "a/b", ".hidden", "", "a\x00b"])
def test_a_plan_cannot_name_a_run_outside_the_store(run_id):
    plan = json.loads(save_plan(Plan(*_one_run_plan())))
    plan["runs"][0]["run_id"] = run_id
    with pytest.raises(UserError, match="run_id"):
        load_plan(json.dumps(plan))


def _one_run_plan():
    from relscale.plan.recipes import SMALL

    return SMALL, (1e12,), toy_runs(1)


def test_time_is_accounted_for():
    spent = {"steps_s": 90.0, "compile_s": 4.0, "evaluate_s": 2.0, "wall_s": 98.0}
    table = SweepResult({}, {}, wall_s=50.0, num_workers=2, spent=spent).summary()
    assert table["core_s"].tolist() == pytest.approx([90.0, 4.0, 2.0, 2.0, 2.0])
    assert table["share"].sum() == pytest.approx(1.0)


def refuse(*_):
    raise Preempted("asked to end")


def test_an_executor_goes_on_after_a_worker_that_takes_no_more_work():
    with open_executor("local", 1) as pool:
        with pytest.raises(Preempted):
            pool.submit(refuse).result()
        assert pool.submit(os.getpid).result() != os.getpid()


def test_accelerators_get_a_process_each(monkeypatch):
    """Two devices are listed: two workers, each of which sees one, without what is set for CPUs alone."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with open_executor("local") as pool:
        seen = {pool.submit(visible).result() for _ in range(6)}
    assert pool.num_workers == 2 and seen <= {("cuda", "3", None), ("cuda", "5", None)}
    with (
        pytest.raises(UserError, match="3 workers: this machine shows 2"),
        open_executor("local", 3),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no device found"), open_executor("local"):
        pass


def visible() -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")))


def test_a_run_that_gets_further_between_losses_is_not_given_up():
    """Two retries: the third loss at one step is too many, and progress starts the count again."""
    policy, tries = RetryPolicy(2, 0, 1), _Tries()
    assert [tries.again(policy, AttemptEnd.LOST, step) for step in (0, 0)] == [True, True]
    assert tries.again(policy, AttemptEnd.LOST, 20)  # the third loss, and the first at step 20
    assert [tries.again(policy, AttemptEnd.LOST, 20) for _ in range(2)] == [True, False]
    assert not _Tries().again(policy, AttemptEnd.OUT_OF_MEMORY, 0)
    assert _Tries().again(policy, AttemptEnd.FAILED, 0)


def test_a_run_without_all_scores_is_still_trained():
    """Its training has a result, so the table says finished; the reason for the missing scores is in `failed`."""
    frame = pd.DataFrame({"run_id": ["a", "b"]})
    results = {"a": {"status": "finished", "train_loss_nats": 3.0, "scores": []}}
    failed = {"a": (AttemptEnd.UNSCORED, "no items"), "b": (AttemptEnd.LOST, "killed")}
    assert list(make_tables(frame, results, failed)[0]["status"]) == ["finished", "lost"]


def test_a_stopwatch_adds_to_what_earlier_attempts_spent():
    watch = Stopwatch({"wall_s": 100.0, "device_s": 700.0, "steps": 40})
    watch.num_devices, watch._begun = 8, watch._begun - 10.0
    watch.row(20)
    seconds = watch.spent["wall_s"] - 100.0
    assert 10.0 <= seconds < 70.0  # no minute goes by in between
    assert watch.spent["device_s"] == pytest.approx(700.0 + 8 * seconds, abs=1e-3)
    assert watch.spent["steps"] == 60
    assert Stopwatch({"wall_s": 5.0})._device_s == 5.0  # of a store before there was such a count


def test_the_rate_of_a_run_is_its_tokens_times_flops_a_token(tmp_path):
    """100 tokens/s of a run whose 6 N D FLOPs are shared by its D tokens; half of the steps are done."""
    (run,), store = toy_runs(1), connect(tmp_path)
    lease = take(store, f"runs/{run.run_id}/lease.json")
    lease.say(step=run.num_steps // 2, tokens_per_s=100.0, doing="training", loss_nats=3.5)
    lease.say(spent={"wall_s": 1800.0, "device_s": 7200.0})
    lease.beat()
    status = run_status(store, run, {})
    expected = 100.0 * status.train_flops / (run.num_steps * run.batch_size * run.seq_len)
    assert (status.state, status.done) == ("training", 0.5)
    assert status.flops_per_s == pytest.approx(expected, rel=1e-12)  # the same three numbers
    left_s = run.num_steps / 2 * run.batch_size * run.seq_len / 100.0
    assert (status.tokens_per_s, status.left_s, status.wall_s) == (100.0, left_s, 1800.0)
    whole = SweepStatus(str(tmp_path), (status,), price_per_hour=2.5)
    row = whole.summary().loc[run.run_id]
    assert row["cost"] == 5.0 and row["loss_nats"] == 3.5  # two device-hours
    assert "cost so far 5.00 at 2.5 a device and hour, about 10.00 in all" in whole.sentence()
    page = whole.to_html(reload_s=7)
    assert "30 min 00 s" in page and human_time(left_s) in page and "100 tokens/s" in page
    assert 'http-equiv="refresh" content="7"' in page
    assert "refresh" not in whole.to_html()
    over = dataclasses.replace(whole, runs=(dataclasses.replace(status, state="finished"),))
    assert "refresh" not in over.to_html(reload_s=7)  # nothing will change


def test_a_damaged_lease_is_told_by_the_status(tmp_path):
    """Without a word a run that was half done would look like one that nobody has tried."""
    (run,), store = toy_runs(1), connect(tmp_path)
    name = f"runs/{run.run_id}/lease.json"
    take(store, name).say(step=run.num_steps // 2)
    assert "damaged" not in run_status(store, run, {}).reason
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    status = run_status(store, run, {})
    assert "its lease is damaged" in status.reason
    assert status.reason in SweepStatus(str(tmp_path), (status,)).summary()["reason"].iloc[0]


def test_a_command_is_called_when_a_run_changes_its_state(tmp_path, monkeypatch, capfd):
    """What is known of the run is in the environment alone, so that a reason never becomes a command."""
    runs, where, said = toy_runs(3), tmp_path / "store", tmp_path / "said"
    store, looks = connect(where), []
    store.write("plan.json", save_plan(Plan(SMALL, (1e12,), runs)).encode())
    reason = f"$(touch {tmp_path / 'ran'}); `touch {tmp_path / 'ran'}`"

    def look(command, status):
        """A run gets its result between each two looks."""
        name = f"runs/run-{len(looks)}/result.json"
        if len(looks) < 3:
            store.write(name, seal({"status": "diverged", "reason": reason}))
        looks.append(status)

    monkeypatch.setattr(train_commands, "_show_status", look)
    script = tmp_path / "alert.sh"
    script.write_text(
        f'echo "$RELSCALE_RUN $RELSCALE_STATE_BEFORE $RELSCALE_STATE $RELSCALE_STORE" >> {said}\n'
        f'echo "$RELSCALE_REASON" >> {said}\n[ "$RELSCALE_RUN" != run-1 ]\n'
    )
    watch = ["status", "--store", str(where), "--watch", "--every-s", "0.1"]
    assert main([*watch, "--on-change", f"sh {script}"]) == 0
    assert said.read_text().splitlines() == [
        line for i in range(3) for line in (f"run-{i} waiting diverged {where}", reason)
    ]
    assert not (tmp_path / "ran").exists() and len(looks) == 4
    assert capfd.readouterr().err == "relscale: --on-change for run run-1: exit code 1\n"
    assert main(["status", "--store", str(where), "--on-change", "true"]) == 2
    assert "add --watch" in capfd.readouterr().err


def test_the_newest_snapshot_is_first(tmp_path):
    """By step and then by attempt, as numbers: 100 comes after 20."""
    store = connect(tmp_path)
    for name in ("20-1", "100-1", "100-2"):
        store.write(f"runs/a/snapshots/{name}.json", b"{}")
        store.write(f"runs/a/snapshots/{name}/metrics.jsonl", b"")
    drop_snapshots(store, "runs/a/snapshots", keep=1)
    assert store.names("runs/a/snapshots") == [
        "runs/a/snapshots/100-2.json",
        "runs/a/snapshots/100-2/metrics.jsonl",
    ]
