"""Faults that need more than a kill: other machines, wrong clocks, full disks, real checkpoints that are damaged.

Kills, two drivers, buckets, SIGTERM and damaged files of toy runs are in `test_sweep.py`, kills of real trainings in
`test_sweep_command.py`, a disk that is full from the start in `test_study.py`. `benchmarks/faults.py` does all of
them at length on real trainings.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sweep import TABLES, TOYS, counted, cut, flip, quiet, start, tables  # noqa: F401

from relscale.plan.recipes import SMALL, plan_run
from relscale.sweep.attempts import execute
from relscale.sweep.leases import LeaseRule, mark
from relscale.sweep.store import connect, read_record

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from faults import Watcher, another_machine, fill, small_disk


def begun(where: Path, number: int, process: subprocess.Popen, what: str) -> None:
    """Wait until so many files of a sweep are there."""
    end = time.monotonic() + 60
    while len(list(where.glob(what))) < number:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def start_elsewhere(where: Path, log: Path, hours: int, folder: Path) -> subprocess.Popen:
    """A driver whose clock is off, and whose processes no other can look up: only its heartbeats speak for it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import time\nread = time.time\ntime.time = lambda: read() + {hours * 3600}\n"
    )
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [*another_machine(), sys.executable, TOYS, str(where), "6", "1"],
        env={**os.environ, "TOY_LOG": str(log), "TOY_ROW_S": "0.05", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
def test_two_machines_with_clocks_two_hours_apart(quiet, tmp_path):  # noqa: F811
    """One is an hour ahead and dies with its worker, one is an hour behind and goes on: nothing is trained twice.

    The second can know of the death by the silence of the heartbeats alone.
    """
    if not another_machine():
        pytest.skip("a name space of process numbers (unshare --pid) needs root")
    where, log = tmp_path / "store", tmp_path / "log"
    ahead = start_elsewhere(where, log, 1, tmp_path / "ahead")
    begun(where, 2, ahead, "runs/*/result.json")
    behind = start_elsewhere(where, log, -1, tmp_path / "behind")
    begun(where, 4, behind, "runs/*/lease.json")
    os.killpg(ahead.pid, signal.SIGKILL)
    ahead.communicate()
    out, err = behind.communicate(timeout=120)
    assert behind.returncode == 0, err
    assert tables(where) == tables(quiet)
    assert set(counted(log).values()) == {1} and len(counted(log)) == 6


@pytest.fixture
def disk(tmp_path):
    """A file system of four megabytes."""
    try:
        with small_disk(tmp_path / "disk", "4m") as folder:
            yield folder
    except subprocess.CalledProcessError:
        pytest.skip("mounting a small file system needs root")


def test_a_disk_that_fills_up_under_way(quiet, disk, tmp_path):  # noqa: F811
    where, log = disk / "store", tmp_path / "log"
    driver = start(where, 6, log, row_s=0.05)
    begun(where, 2, driver, "runs/*/result.json")
    filler = fill(disk, leave=0)
    kept = {p: p.read_bytes() for p in where.glob("runs/*/result.json")}
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 1 and "no space left on the disk" in err.splitlines()[-1], err
    assert {p: p.read_bytes() for p in kept} == kept
    filler.unlink()
    again = start(where, 6, log)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert tables(where) == tables(quiet) and set(counted(log).values()) == {1}
    assert {p: p.read_bytes() for p in kept} == kept


def test_a_disk_that_is_full_when_tables_are_written(quiet, disk, tmp_path):  # noqa: F811
    """The old tables stay as they are: of new ones, none, or a whole one."""
    where = disk / "store"
    subprocess.run(["cp", "-r", quiet, where], check=True)
    for name in TABLES:
        (where / name).write_bytes(b"old")
    filler = fill(disk, leave=0)
    driver = start(where, 6, tmp_path / "log")
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 1 and "no space left" in err.splitlines()[-1], err
    assert tables(where) == [b"old", b"old"]
    filler.unlink()
    again = start(where, 6, tmp_path / "log")
    again.communicate(timeout=60)
    assert again.returncode == 0 and tables(where) == tables(quiet)
    assert not counted(tmp_path / "log")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real run of seconds: its job, its undisturbed result, and a store in which it stopped half way."""
    from relscale.sweep import prepare, suite

    text = prepare.TextConfig(("bible",), 60_000, 4_000)
    run = plan_run(3e8, 8, _recipe())
    stopped, whole = (tmp_path_factory.mktemp("real") / name for name in ("stopped", "whole"))
    (run,) = suite.fill_mixtures([run], ["bible"])
    card = prepare.prepare_text(connect(stopped), text, run.model.vocab)
    shutil.copytree(stopped, whole)

    def job(where):
        return suite.suite_job(where, card, lease=LeaseRule(0.5, 5.0), checkpoint_s=0.0)

    with pytest.MonkeyPatch.context() as patch:
        asked = iter([False] * 4)
        patch.setattr(suite, "ending", lambda: next(asked, True))
        assert execute(job(stopped), run).outcome == "preempted"
    assert execute(job(whole), run).outcome == "finished"
    return run, job, stopped, whole


def _recipe():
    import dataclasses

    return dataclasses.replace(SMALL, vocab=320, seq_len=32)


def arrays(folder: Path) -> list[Path]:
    """Every file of values: a merge may leave some that nothing refers to, whose damage would harm nobody."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    assert found, folder
    return found


@pytest.mark.parametrize("harm", [cut, flip])
@pytest.mark.parametrize("damaged", ["100", "100 80", "metrics.jsonl"])
def test_a_damaged_checkpoint_of_a_real_run(real, tmp_path, harm, damaged):
    """The one before it is used, or with none left the run begins again: the same result and scores in bytes."""
    run, job, stopped, whole = real
    where = tmp_path / "store"
    shutil.copytree(stopped, where)
    folder = where / "runs" / run.run_id
    assert sorted(p.name for p in (folder / "checkpoints").glob("[0-9]*")) == ["100", "80"]
    for name in damaged.split():
        for path in arrays(folder / "checkpoints" / name) if name.isdigit() else [folder / name]:
            harm(path)
    outcome = execute(job(where), run)
    if outcome.outcome == "failed":  # no checkpoint is whole; a sweep tries once more
        assert damaged == "100 80" and "no checkpoint of 100, 80" in outcome.reason
        outcome = execute(job(where), run)
    elif "80" not in damaged:
        assert any(f"{damaged}: damaged" in note for note in outcome.notes), outcome
    assert outcome.outcome == "finished", outcome
    for name in ("result.json", "scores/heldout.json"):
        mine, wanted = (
            connect(w).find(f"runs/{run.run_id}/{name}").content for w in (where, whole)
        )
        assert mine == wanted


def test_a_disk_that_fills_up_during_a_real_checkpoint(real, disk, capfd):
    """It is named as that, and not as lack of memory, which TensorStore calls by the same code; nothing is spilt."""
    run, job, stopped, whole = real
    where = disk / "store"
    shutil.copytree(stopped, where)
    filler = fill(disk, leave=4)  # some rows of the log still find room
    outcome = execute(job(where), run)
    assert outcome.outcome == "full-disk" and outcome.reason.startswith(
        f"{where}: no space left"
    ), outcome
    assert "ERROR:absl" not in capfd.readouterr().err
    filler.unlink()
    held = read_record(
        connect(where), f"runs/{run.run_id}/lease.json"
    )  # there was no room to give it back
    assert execute(job(where), run, dead=mark(held)).outcome == "finished"
    mine, wanted = (
        connect(w).find(f"runs/{run.run_id}/result.json").content for w in (where, whole)
    )
    assert mine == wanted


def test_the_counter_of_the_campaign_sees_a_run_that_is_trained_twice(tmp_path):
    """What `benchmarks/faults.py` reports as none must be able to be some."""
    (tmp_path / "runs/a/model").mkdir(parents=True)
    (tmp_path / "runs/b/model").mkdir(parents=True)
    watcher = Watcher(tmp_path)
    watcher.look()
    watcher.look()
    assert [len(seen) for seen in watcher.models.values()] == [1, 1]
    shutil.rmtree(tmp_path / "runs/a/model")
    time.sleep(0.02)
    (tmp_path / "runs/a/model").mkdir()
    watcher.look()
    assert {name: len(seen) for name, seen in watcher.models.items()} == {"a": 2, "b": 1}
