"""What a sweep survives: real trainings are killed, cut off, starved and damaged, and the tables compared bit for bit.

    python benchmarks/faults.py --csv data/faults

An undisturbed sweep of 16 small runs comes first; every scenario then does harm to another sweep of the same plan,
starts it again until it ends well, and holds its tables and weights against the first one's. Rows are written as soon as
a scenario is done, and the same command goes on with those that are missing. About ten minutes on two idle cores.
Single flipped bits, a thousand of them, are the work of `flips.py` beside this file.

    python benchmarks/faults.py --csv data/faults --many [kills disks clocks hostile]

does many small cases: 50 kills and 20 pairs of machines whose clocks jump, on toy trainings, 50 disks of random size under a
real one, and 200 hostile files.

Full disks need root, to mount a small file system, and so does the second machine, which is a name space of process
numbers of its own. A wrong clock is `time.time` shifted by a `sitecustomize` in every process of that driver
(libfaketime 0.9.10 makes `time.sleep` of Python 3.11 fail when it leaves the monotonic clock alone). The bucket is
moto's server on this machine (`pip install 'moto[server]'`). What cannot be done here is left out, with a line that says so.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from relscale.plan.recipes import SMALL, plan_isoflop, save_plan
from relscale.sweep.folders import download
from relscale.sweep.leases import this_process
from relscale.sweep.store import connect, read_record

TABLES = ("runs.parquet", "scores.parquet")
TEXT = ("--domains", "code", "bible", "--train-bytes", "150000", "--heldout-bytes", "6000")
QUICK = ("--checkpoint-s", "0.5", "--beat-s", "0.5", "--dead-after-s", "5", "--lost-retries", "50")
CODE = "import sys; from relscale.cli import main; sys.exit(main())"
ROW = 20  # steps of a log row
LOOK_S = 0.1
LATE_S = 240  # a sweep that takes longer hangs


def make_plan():
    """16 runs of two shapes, with 7 and 37 thousand parameters."""
    recipe = dataclasses.replace(SMALL, vocab=320, seq_len=32, max_sizes=2)
    return plan_isoflop((1.2e10,), recipe, seeds=range(8))


# ---- looking on


def processes() -> dict[int, tuple[int, int, str, float]]:
    """Parent, session, start and processor seconds of each process of this machine that is not a zombie."""
    found, tick = {}, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                used = (int(fields[11]) + int(fields[12])) / tick
                found[int(path.parent.name)] = int(fields[1]), int(fields[3]), fields[19], used
    return found


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Watcher(threading.Thread):
    """Notes from outside, ten times a second: processor time, who holds which run, and each model that appears."""

    def __init__(self, where: Path | None):
        super().__init__(daemon=True)
        self.where, self.begun, self.done = where, time.monotonic(), threading.Event()
        self.sessions: set[int] = set()
        self.used: dict[tuple, float] = {}
        self.models: dict[str, set] = defaultdict(set)
        self.held: dict[str, dict] = {}
        self.spans: list[dict] = []
        self.looking = threading.Lock()

    def now(self) -> float:
        return round(time.monotonic() - self.begun, 2)

    def run(self) -> None:
        while not self.done.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        with self.looking:
            alive = processes()
            for pid, (_, session, started, used) in alive.items():
                if session in self.sessions:
                    self.used[pid, started] = used
            if self.where is not None:
                self.look_at_runs(alive)

    def look_at_runs(self, alive) -> None:
        for path in self.where.glob("runs/*/model"):
            with contextlib.suppress(OSError):
                status = path.stat()
                self.models[path.parent.name].add((status.st_ino, status.st_ctime_ns))
        for path in self.where.glob("runs/*/lease.json"):
            name = path.parent.name
            with contextlib.suppress(OSError, ValueError):
                lease, span = json.loads(path.read_bytes()), self.held.get(name)
                if span and (span["attempt"] != lease["attempt"] or lease["state"] == "free"):
                    self.end(name, lease["past"][-1]["outcome"] if lease["past"] else "")
                if lease["state"] == "held" and name not in self.held:
                    here = lease["machine"] == this_process()["machine"]
                    self.held[name] = {
                        "run_id": name, "attempt": lease["attempt"], "pid": lease["pid"], "here": here,
                        "begun_s": self.now(),
                    }  # fmt: skip
        for name, span in list(self.held.items()):
            if span["here"] and span["pid"] not in alive:
                self.end(name, "lost")

    def end(self, name: str, outcome: str) -> None:
        span = self.held.pop(name)
        if span["attempt"] not in [s["attempt"] for s in self.spans if s["run_id"] == name]:
            self.spans.append(span | {"ended_s": self.now(), "outcome": outcome})

    def stop(self) -> None:
        self.done.set()
        self.join()
        self.look()

    @property
    def cpu_s(self) -> float:
        return round(sum(self.used.values()), 1)


# ---- a sweep as a shell would start it


class Lab:
    """A folder with the plan, the undisturbed sweep, and what is done to others."""

    def __init__(self, work: Path, csv: Path):
        self.work, self.csv = work, csv
        self.plan, self.quiet = work / "plan.json", work / "quiet"
        self.runs = {run.run_id: run for run in make_plan().runs}
        work.mkdir(parents=True, exist_ok=True)
        self.plan.write_text(save_plan(make_plan()))

    def command(self, where, *more) -> list[str]:
        words = ["sweep", str(self.plan), "--store", str(where), *TEXT, *QUICK, *more]
        return [sys.executable, "-c", CODE, *words]

    def start(self, where, watcher, *more, before=(), environment=None) -> subprocess.Popen:
        driver = subprocess.Popen(
            [*before, *self.command(where, *more)],
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        watcher.sessions.add(driver.pid)
        return driver

    def sweep(self, where, watcher, *more) -> subprocess.CompletedProcess:
        """To its end, with nothing in its way."""
        driver = self.start(where, watcher, *more)
        out, err = driver.communicate(timeout=LATE_S)
        return subprocess.CompletedProcess(driver.args, driver.returncode, out, err)

    def fresh(self, name: str) -> Path:
        where = self.work / name
        shutil.rmtree(where, ignore_errors=True)
        return where

    def copy(self, name: str, *, source: Path | None = None, without_runs=False) -> Path:
        """The undisturbed store, or another, under a new name."""
        where = self.fresh(name)
        subprocess.run(["cp", "-r", source or self.quiet, where], check=True)
        if without_runs:
            for path in [where / "runs", where / "tables.json", *(where / t for t in TABLES)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return where

    # ---- what came of it

    def weights(self, where) -> dict[str, str]:
        """A hash of the final weights of each run, as bits."""
        import jax
        import numpy as np

        from relscale.model.training import load_model, start_state

        store, found = connect(where), {}
        for name, run in self.runs.items():
            folder = self.work / "fetched" / name
            if store.local is not None:
                folder = store.local / "runs" / name
            else:
                shutil.rmtree(folder, ignore_errors=True)
                folder.parent.mkdir(exist_ok=True)
                download(store, f"runs/{name}", folder, manifest=f"runs/{name}/files.json")
            model, digest = load_model(folder, start_state(run).model), hashlib.sha256()
            for leaf in jax.tree.leaves(model):
                digest.update(np.asarray(leaf).tobytes())
            found[name] = digest.hexdigest()
        return found

    def same(self, where) -> dict:
        """Whether tables and weights are those of the undisturbed sweep."""
        mine, quiet = connect(where), connect(self.quiet)
        tables = all(getattr(mine.find(t), "content", 0) == quiet.find(t).content for t in TABLES)
        return {"tables_same": tables, "weights_same": self.weights(where) == self.quiet_weights}

    @property
    def quiet_weights(self) -> dict[str, str]:
        if not hasattr(self, "_quiet"):
            self._quiet = self.weights(self.quiet)
        return self._quiet

    def count(self, where, watcher) -> dict:
        """Attempts and steps, from what the runs' folders have logged; models as they were seen to appear."""
        store, ends, logged = connect(where), Counter(), 0
        for name in self.runs:
            lease = read_record(store, f"runs/{name}/lease.json") or {"past": []}
            ends[sum(p["outcome"] == "finished" for p in lease["past"])] += 1
            if store.local is not None:
                sums = (store.local / "runs" / name / "metrics.sums").read_text().splitlines()
                logged += sum(run_rows(self.runs[name], sums))
        planned = sum(run.num_steps for run in self.runs.values())
        models = [len(seen) for seen in watcher.models.values()]
        counted = {
            "runs": len(self.runs),
            "attempts": sum(
                (read_record(store, f"runs/{n}/lease.json") or {"attempt": 0})["attempt"]
                for n in self.runs
            ),
            "finished_twice": sum(n > 1 for n in models)
            + sum(k * (n > 1) for n, k in ends.items()),
            "steps": planned,
            "cpu_s": watcher.cpu_s,
            "wall_s": watcher.now(),
        }
        return counted | ({"steps_repeated": logged - planned} if store.local is not None else {})


def run_rows(run, sums: list[str]) -> list[int]:
    """Steps of each row that was ever logged; the log of sums is only appended to."""
    steps = [int(line.split()[0]) for line in sums]
    return [run.num_steps % ROW or ROW if step == run.num_steps else ROW for step in steps]


# ---- scenarios: each returns rows of campaign.csv and of tables of its own


def undisturbed(lab: Lab):
    """Nothing happens to it; its tables are the measure of all others."""
    where = lab.fresh("quiet")
    watcher = Watcher(where)
    watcher.start()
    done = lab.sweep(where, watcher)
    watcher.stop()
    assert done.returncode == 0, done.stderr
    return {"what": "left alone", **lab.count(where, watcher)}, {}


def strike(lab: Lab, where, watcher, num_kills: int, *, seed: int, gap: tuple[float, float]):
    """Start a sweep, kill a worker or the driver by -9 at random moments, start it again; to its end."""
    rng, kills = random.Random(seed), []
    while True:
        driver = lab.start(where, watcher)
        while driver.poll() is None and len(kills) < num_kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(rng.uniform(*gap))
            alive = processes()
            workers = [
                p for p, (parent, *_) in alive.items() if parent == driver.pid and is_worker(p)
            ]
            who = "driver" if rng.random() < 0.25 else "worker"
            victim = driver.pid if who == "driver" else rng.choice(workers or [0])
            if victim and victim in alive:
                watcher.look()
                os.kill(victim, signal.SIGKILL)
                doing = [n for n, span in watcher.held.items() if span["pid"] == victim]
                kills.append(
                    {"kill_s": watcher.now(), "who": who, "pid": victim, "run_id": "".join(doing)}
                )
        _, err = driver.communicate(timeout=LATE_S)
        if driver.returncode == 0:
            return kills
        assert driver.returncode == -9, err


def of_kills(kills: list[dict]) -> dict:
    who = Counter(kill["who"] for kill in kills)
    return {"kills_worker": who["worker"], "kills_driver": who["driver"]}


def killed(lab: Lab):
    """30 kills at random moments."""
    where = lab.fresh("killed")
    watcher = Watcher(where)
    watcher.start()
    kills = strike(lab, where, watcher, 30, seed=0, gap=(0.5, 4.5))
    watcher.stop()
    row = {"what": "kill -9 of workers and of the driver", **of_kills(kills)}
    row |= lab.count(where, watcher) | lab.same(where)
    hidden = {"pid", "here"}
    spans = [{k: v for k, v in span.items() if k not in hidden} for span in watcher.spans]
    kills = [{k: v for k, v in kill.items() if k not in hidden} for kill in kills]
    return row, {"attempts": spans, "kills": kills}


def pin(i: int) -> list[str]:
    """Words before a command that give it one core; its workers follow."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[i % len(cores)])]


def two_drivers(lab: Lab):
    """The same command twice at the same time."""
    where = lab.fresh("two")
    watcher = Watcher(where)
    watcher.start()
    drivers = [lab.start(where, watcher, before=pin(i)) for i in range(2)]
    ended = [driver.communicate(timeout=LATE_S) for driver in drivers]
    watcher.stop()
    assert [d.returncode for d in drivers] == [0, 0], ended
    row = {"what": "two drivers at once, one worker each"}
    return row | lab.count(where, watcher) | lab.same(where), {}


def shifted_clock(lab: Lab, hours: int) -> tuple[dict, float]:
    """The environment of a process whose time of day is off, and by how many seconds it was seen to be."""
    folder = lab.work / f"clock{hours}"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"import time\nread, read_ns = time.time, time.time_ns\n"
        f"time.time = lambda: read() + {hours * 3600}\n"
        f"time.time_ns = lambda: read_ns() + {hours * 3600} * 10**9\n"
    )
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ask = [sys.executable, "-c", "import time; print(time.time())"]
    said = subprocess.run(ask, env=os.environ | changes, capture_output=True, text=True, check=True)
    off = float(said.stdout) - time.time()
    assert abs(off - hours * 3600) < 60, f"the clock is off by {off} s"
    return changes, off


def another_machine() -> list[str]:
    """Words before a command that give it process numbers of its own: no other can look up its processes."""
    words = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    works = (
        shutil.which("unshare")
        and not subprocess.run([*words, "true"], capture_output=True).returncode
    )
    return words if works else []


def wrong_clock(lab: Lab):
    """Two machines share a store, their clocks an hour ahead and an hour behind; the first dies with all its workers."""
    where, apart = lab.fresh("clocks"), another_machine()
    watcher = Watcher(where)
    (ahead, more), (behind, less) = shifted_clock(lab, 1), shifted_clock(lab, -1)
    watcher.start()
    one, two = (
        lab.start(where, watcher, before=[*pin(i), *apart], environment=clock)
        for i, clock in enumerate((ahead, behind))
    )
    until(lambda: len(list(where.glob("runs/*/result.json"))) >= 4 and len(watcher.held) == 2, one)
    alive = processes()
    mine = [pid for pid, (_, session, *_) in alive.items() if session == one.pid]
    for pid in mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    one.communicate()
    _, err = two.communicate(timeout=LATE_S)
    watcher.stop()
    assert two.returncode == 0, err
    row = {
        "what": f"two drivers, clocks {more / 3600:+.0f} h and {less / 3600:+.0f} h"
        + (", as two machines" if apart else "")
        + "; the first killed with its worker",
        "kills_worker": 1,
        "kills_driver": 1,
    }
    return row | lab.count(where, watcher) | lab.same(where), {}


def until(true, process: subprocess.Popen) -> None:
    """Wait for something to be true of a sweep that is going on."""
    end = time.monotonic() + LATE_S
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"ended too soon, or never: {process.communicate()}")
        time.sleep(0.02)


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all room but a few pages."""
    with open(disk / "filler", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - leave * 4096))
    return disk / "filler"


def full_disk(lab: Lab):
    """The disk fills up while runs are trained, and again before the tables are written."""
    rows, disk = [], lab.work / "disk"
    with small_disk(disk, "64m"):
        lab.copy("disk/store", without_runs=True)
        where = disk / "store"
        watcher = Watcher(where)
        watcher.start()
        driver = lab.start(where, watcher)
        until(
            lambda: (
                len(list(where.glob("runs/*/result.json"))) >= 3
                and list(where.glob("runs/*/checkpoints/[0-9]*"))
            ),
            driver,
        )
        filler = fill(disk, leave=6)  # room for some log rows, and not for a checkpoint
        _, err = driver.communicate(timeout=LATE_S)
        kept = {p: p.read_bytes() for p in where.glob("runs/*/result.json")}
        whole = all(p.read_bytes() == (lab.quiet / p.relative_to(where)).read_bytes() for p in kept)
        rows.append({"what": "disk full during checkpoints", **said(lab, driver.returncode, err)})
        filler.unlink()
        again = lab.sweep(where, watcher)
        assert again.returncode == 0, again.stderr
        whole = whole and all(p.read_bytes() == content for p, content in kept.items())
        rows[-1] |= {"finished_before": len(kept), "finished_intact": whole}
        rows[-1] |= lab.count(where, watcher) | lab.same(where)
        for path in [where / "tables.json", *(where / name for name in TABLES)]:
            path.unlink()
        filler = fill(disk, leave=0)
        done = lab.sweep(where, watcher)
        rows.append(
            {"what": "disk full as tables are written", **said(lab, done.returncode, done.stderr)}
        )
        half = [name for name in TABLES if (where / name).exists()]
        filler.unlink()
        again = lab.sweep(where, watcher)
        watcher.stop()
        assert again.returncode == 0 and not half, (again.stderr, half)
        whole = all(p.read_bytes() == content for p, content in kept.items())
        rows[-1] |= {
            "runs": len(lab.runs),
            "finished_before": len(lab.runs),
            "finished_intact": whole,
        }
        rows[-1] |= lab.same(where)
    return rows, {}


def said(lab: Lab, code: int, err: str) -> dict:
    """Exit code and the last line, which is ours; lines above it that are neither ours nor the progress bar are counted."""
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("relscale:")]
    assert code == 2 and ours == lines[-1:], (code, err)
    others = [line for line in lines[:-1] if not line.startswith("training ")]
    return {
        "exit_code": code,
        "said": ours[0].replace(str(lab.work), "WORK"),
        "other_lines": len(others),
    }


def terminated(lab: Lab):
    """SIGTERM to the driver at five random moments: how long until all its processes are gone, and what is lost."""
    where, rng, rows = lab.copy("terminated", without_runs=True), random.Random(3), []
    watcher = Watcher(where)
    watcher.start()
    for i in range(5):
        driver = lab.start(where, watcher)
        until(lambda: len(watcher.held) == 2 and logs(where), driver)
        time.sleep(rng.uniform(1, 4))
        watcher.look()
        under_way = dict(watcher.held)
        begun = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=LATE_S)
        while any(session == driver.pid for _, session, *_ in processes().values()):
            time.sleep(0.01)
        seconds = time.monotonic() - begun
        leases = {n: read_record(connect(where), f"runs/{n}/lease.json") for n in under_way}
        stopped = {
            n: e for n, e in leases.items() if e["past"] and e["past"][-1]["outcome"] == "preempted"
        }
        saved = sum(
            (where / f"runs/{n}/checkpoints/{e['note'].get('step', 0)}").is_dir()
            for n, e in stopped.items()
        )
        rows.append(
            {"round": i, "exit_code": driver.returncode, "seconds": round(seconds, 2), "runs_under_way": len(under_way),
             "preempted": len(stopped), "checkpoint_of_last_row": saved}
        )  # fmt: skip
    done = lab.sweep(where, watcher)
    watcher.stop()
    assert done.returncode == 0, done.stderr
    times = [row["seconds"] for row in rows]
    what = f"SIGTERM to the driver, five times: gone after {statistics.median(times):.1f} s (median), {max(times):.1f} s (most)"
    return {"what": what, **lab.count(where, watcher), **lab.same(where)}, {"sigterm": rows}


def logs(where: Path) -> list[Path]:
    return [
        p
        for p in where.glob("runs/*/metrics.jsonl")
        if p.stat().st_size and not (p.parent / "model").exists()
    ]


def in_a_bucket(lab: Lab):
    """Ten kills of a sweep whose store is a bucket that is reached over HTTP."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from s3_server import bucket

    os.environ["RELSCALE_SCRATCH"] = str(lab.fresh("scratch"))
    watcher = Watcher(None)
    with bucket() as where:
        watcher.start()
        kills = strike(lab, where, watcher, 10, seed=1, gap=(1.0, 6.0))
        watcher.stop()
        row = {"what": "the same in a bucket over HTTP", **of_kills(kills)}
        return row | lab.count(where, watcher) | lab.same(where), {}


# ---- damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def half_done(lab: Lab, victim: str, watcher) -> Path:
    """A store in which all runs but one are finished, and that one was killed with two checkpoints."""
    where = lab.copy("half")
    shutil.rmtree(where / "runs" / victim)
    driver = lab.start(where, watcher, "--checkpoint-s", "0.3")
    folder = where / "runs" / victim / "checkpoints"
    until(lambda: len([p for p in folder.glob("*") if p.name.isdigit()]) >= 2, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    return where


def damaged(lab: Lab):
    """One file is cut to half its length, or one bit of it flipped, and the sweep started again."""
    victim = min(lab.runs, key=lambda name: lab.runs[name].num_steps)
    base, watcher, path = Path("runs") / victim, Watcher(None), lab.csv / "damage.csv"
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    done_before = {(row["file"], row["harm"]) for row in rows}
    half = half_done(lab, victim, watcher)
    steps = sorted(int(p.name) for p in (half / base / "checkpoints").glob("*") if p.name.isdigit())
    newest, older = (base / "checkpoints" / str(step) for step in (steps[-1], steps[-2]))
    cases = [
        ("newest checkpoint", half, [newest]),
        ("both checkpoints", half, [newest, older]),
        ("metrics file", half, [base / "metrics.jsonl"]),
        ("sums of the metrics file", half, [base / "metrics.sums"]),
        ("lease", half, [base / "lease.json"]),
        ("weights", lab.quiet, [base / "model"]),
        ("result", lab.quiet, [base / "result.json"]),
        ("score", lab.quiet, [base / "scores" / "heldout.json"]),
        ("table of runs", lab.quiet, [Path("runs.parquet")]),
        ("table of scores", lab.quiet, [Path("scores.parquet")]),
    ]
    for what, source, names in cases:
        for harm in (cut, flip):
            if (what, harm.__name__) in done_before:
                continue
            where = lab.copy("harmed", source=source)
            for name in names:
                path = where / name
                harm(largest(path) if path.is_dir() else path)
            if what == "weights":  # they are read when a score is wanted
                (where / base / "scores" / "heldout.json").unlink()
            done = lab.sweep(where, watcher)
            notes = [
                line for line in done.stdout.splitlines() if "damaged" in line or "retried" in line
            ]
            rows.append(
                {"file": what, "harm": harm.__name__, "sweep": "killed half way" if source == half else "finished",
                 "named": bool(notes), "said": "; ".join(notes).replace(str(where), "STORE"),
                 "exit_code": done.returncode, **lab.same(where)}
            )  # fmt: skip
            write(lab.csv, "damage", rows)
    good = all(r["tables_same"] and r["weights_same"] and r["exit_code"] == 0 for r in rows)
    row = {"what": f"{len(rows)} damaged files, one at a time", "runs": len(lab.runs), "tables_same": good,
           "weights_same": good}  # fmt: skip
    return row, {}


# ---- many small cases: a row each, and the same command goes on with those that are missing

TESTS = Path(__file__).parent.parent / "tests"
NUM_TOYS, KILLS_A_SWEEP = 6, 5
JUMPS = """
import random, time
_random, _state = random.Random({seed}), [0.0, 0.0]
_real, _real_ns, _perf, _get = time.time, time.time_ns, time.perf_counter, time.clock_gettime
def _off():
    if _perf() >= _state[1]:
        _state[:] = _random.choice([-3600.0, 0.0, 3600.0]), _perf() + _random.uniform(0.2, 2.0)
    return _state[0]
time.time = lambda: _real() + _off()
time.time_ns = lambda: _real_ns() + int(_off()) * 10**9
time.clock_gettime = lambda clock: _get(clock) + _off()
"""


class Toys:
    """Sweeps of trainings that cost nothing and behave like some (`tests/sweep_toys.py`), counted by a log of their own."""

    def __init__(self, work: Path):
        self.work = work
        self.quiet = work / "toys-quiet"
        if not (self.quiet / "scores.parquet").exists():
            shutil.rmtree(self.quiet, ignore_errors=True)
            assert self.start(self.quiet, work / "quiet.log").wait() == 0

    def start(self, where: Path, log: Path, *, workers=2, row_s=0.04, before=(), environment=None):
        changes = {"TOY_LOG": str(log), "TOY_ROW_S": str(row_s)} | (environment or {})
        words = [sys.executable, TESTS / "sweep_toys.py", str(where), str(NUM_TOYS), str(workers)]
        return subprocess.Popen(
            [*before, *words], env=os.environ | changes, stdout=subprocess.DEVNULL,
            stderr=open(log.with_suffix(".err"), "ab"), start_new_session=True,
        )  # fmt: skip

    def fresh(self, name: str) -> tuple[Path, Path]:
        where, log = self.work / name, self.work / f"{name}.log"
        shutil.rmtree(where, ignore_errors=True)
        for path in (log, log.with_suffix(".err")):
            path.unlink(missing_ok=True)
        return where, log

    def count(self, where: Path, log: Path) -> dict:
        """Results that are missing, runs that were trained to their end twice, and whether the tables are the same bytes."""
        ends = Counter(x for x in log.read_text().splitlines() if x.startswith("finish"))
        there = len(list(where.glob("runs/*/result.json")))
        same = all((where / t).read_bytes() == (self.quiet / t).read_bytes() for t in TABLES)
        twice = sum(n > 1 for n in ends.values())
        return {"runs_lost": NUM_TOYS - there, "trained_twice": twice, "tables_same": same}


def many(name: str, lab: Lab, cases: int, one) -> None:
    """Do what is missing of so many cases; `one` gives a row or several."""
    path = lab.csv / f"many_{name}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {row["case"] for row in rows}
    for case in range(cases):
        if case in done:
            continue
        begun = time.monotonic()
        got = one(case, random.Random(case))
        seconds = round(time.monotonic() - begun, 1)
        rows += [{"case": case, **row, "wall_s": seconds} for row in got]
        write(lab.csv, f"many_{name}", rows)
        print(f"{name} {case}: {seconds} s; {got[-1]}", flush=True)


def kill_toys(lab: Lab, cases: int) -> None:
    """Five kills a sweep at random moments: of a worker, of the driver, of all at once."""
    toys = Toys(lab.work)

    def one(case, rng):
        (where, log), kills = toys.fresh(f"toys-kill{case % 2}"), []
        while True:
            driver = toys.start(where, log)
            while driver.poll() is None and len(kills) < KILLS_A_SWEEP:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(rng.uniform(0.5, 4.0))
                alive = processes()
                pids = [p for p, (up, *_) in alive.items() if up == driver.pid and is_worker(p)]
                who = rng.choice(["worker", "driver", "all"])
                if driver.poll() is not None or (who == "worker" and not pids):
                    continue
                if who == "all":
                    os.killpg(driver.pid, signal.SIGKILL)
                else:
                    os.kill(driver.pid if who == "driver" else rng.choice(pids), signal.SIGKILL)
                kills.append({"kill": len(kills), "who": who})
            if driver.wait(LATE_S) == 0:
                break
        return [kill | toys.count(where, log) for kill in kills]

    many("kills", lab, cases, one)


def jump_toys(lab: Lab, cases: int) -> None:
    """Two drivers, as two machines; the clocks of both jump by an hour either way, and one is stopped past its leases."""
    toys = Toys(lab.work)

    def one(case, rng):
        (where, log), apart, drivers = toys.fresh(f"toys-jump{case % 2}"), another_machine(), []
        for machine in range(2):
            folder = lab.work / f"jumps{machine}"
            folder.mkdir(exist_ok=True)
            (folder / "sitecustomize.py").write_text(JUMPS.format(seed=2 * case + machine))
            paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
            drivers.append(toys.start(where, log, workers=1, before=apart, environment={"PYTHONPATH": paths}))  # fmt: skip
        end = time.monotonic() + LATE_S
        while not list(where.glob("runs/*/checkpoints/*")) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3))
        stop_s = rng.uniform(3, 8)  # the lease of a toy ends after 2 s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(drivers[0].pid, signal.SIGSTOP)
            time.sleep(stop_s)
            os.killpg(drivers[0].pid, signal.SIGCONT)
        codes = [driver.wait(LATE_S) for driver in drivers]
        said = log.with_suffix(".err").read_text().splitlines()
        row = {
            "stopped_s": round(stop_s, 1),
            "failed": sum(code != 0 for code in codes),
            "said": said[-1] if any(codes) else "",
        }
        return [row | toys.count(where, log)]

    many("clocks", lab, cases, one)


def fill_disks(lab: Lab, cases: int) -> None:
    """A real training on a disk of random size, which is made larger when it is full; then the same again."""
    import logging

    from relscale.plan.recipes import plan_run
    from relscale.sweep import prepare, suite
    from relscale.sweep.attempts import execute
    from relscale.sweep.leases import LeaseRule, mark

    logging.disable(logging.CRITICAL)  # threads of Orbax log what the outcome says, too
    (run,) = suite.fill_mixtures(
        [plan_run(3e8, 8, dataclasses.replace(SMALL, vocab=320, seq_len=32))], ["bible"]
    )
    text, whole = prepare.TextConfig(("bible",), 60_000, 4_000), lab.fresh("disk-whole")
    card = prepare.prepare_text(connect(whole), text, run.model.vocab)
    source = lab.copy("disk-source", source=whole)

    def job(where):
        return suite.suite_job(where, card, lease=LeaseRule(0.5, 5.0), checkpoint_s=0.0)

    def found(where):
        names = ("result.json", "scores/heldout.json")
        return [(Path(where) / "runs" / run.run_id / name).read_bytes() for name in names]

    assert execute(job(whole), run).outcome == "finished"
    size = lambda folder: int(subprocess.check_output(["du", "-sk", folder]).split()[0])  # noqa: E731
    least, most = size(source) + 40, size(whole) + 250

    def one(case, rng):
        room, disk = rng.randint(least, most), lab.work / "small-disk"
        with small_disk(disk, f"{room}k") as folder:
            where = folder / "store"
            subprocess.run(["cp", "-r", source, where], check=True)
            first = execute(job(where), run)
            kept = found(where) if first.outcome == "finished" else None
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            held = read_record(connect(where), f"runs/{run.run_id}/lease.json")
            last = execute(job(where), run, dead=None if held is None else mark(held))
            same = last.outcome == "finished" and found(where) == found(whole)
            said = first.reason.replace(str(lab.work), "WORK")
            return [
                {"disk_kb": room, "ended": first.outcome, "said": said, "then": last.outcome,
                 "runs_lost": int(last.outcome != "finished"), "trained_twice": int(kept is not None and kept != found(where)),
                 "tables_same": same, "scratch_named": ".part" in said or "__lock" in said or "-tmp" in said}
            ]  # fmt: skip

    many("disks", lab, cases, one)


def meet_hostile_files(lab: Lab, cases: int) -> None:
    """Each file of `hostile_files` once."""
    from hostile_files import cases as hostile_cases
    from hostile_files import good, measure

    path = lab.csv / "hostile.csv"
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    done = {(row["kind"], row["what"]) for row in rows}
    for case in hostile_cases():
        if (case.kind, case.what) not in done:
            folder = lab.fresh("hostile")
            folder.mkdir()
            row = measure(case, folder)
            rows.append(row | {"good": good(row)})
            write(lab.csv, "hostile", rows)
            print("" if good(row) else "BAD", row, flush=True)


MANY = {
    "hostile": (meet_hostile_files, 0),
    "kills": (kill_toys, 10),
    "disks": (fill_disks, 50),
    "clocks": (jump_toys, 20),
}

SCENARIOS = {
    "undisturbed": undisturbed,
    "kills": killed,
    "two-drivers": two_drivers,
    "clocks": wrong_clock,
    "disk": full_disk,
    "damage": damaged,
    "sigterm": terminated,
    "bucket": in_a_bucket,
}


def write(folder: Path, name: str, rows: list[dict]) -> None:
    if rows:
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--csv", type=Path, default=Path("data/faults"), help="folder for the tables"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/relscale-faults"), help="folder for the stores"
    )
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="these scenarios, anew")
    parser.add_argument("--many", nargs="*", choices=MANY, help="the tables of many small cases")
    options = parser.parse_args()
    lab = Lab(options.work.absolute(), options.csv)
    options.csv.mkdir(parents=True, exist_ok=True)
    if options.many is not None:
        for name in options.many or MANY:
            act, cases = MANY[name]
            act(lab, cases)
        return
    path = options.csv / "campaign.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    if options.only:
        rows = [row for row in rows if row["scenario"] not in options.only]
        if "damage" in options.only:
            (options.csv / "damage.csv").unlink(missing_ok=True)
    if not (lab.quiet / "tables.json").exists():
        rows = [row for row in rows if row["scenario"] != "undisturbed"]
    for name in options.only or SCENARIOS:
        if name in [row["scenario"] for row in rows]:
            continue
        begun = time.monotonic()
        try:
            got, tables = SCENARIOS[name](lab)
        except (subprocess.CalledProcessError, ImportError, FileNotFoundError) as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        got = [
            {"scenario": name, **row, "load_average": round(os.getloadavg()[0], 1)}
            for row in (got if isinstance(got, list) else [got])
        ]
        rows = sorted(rows + got, key=lambda row: [*SCENARIOS].index(row["scenario"]))
        for table, of in tables.items():
            write(options.csv, table, of)
        write(options.csv, "campaign", rows)
        print(f"{name}: {time.monotonic() - begun:.0f} s; {got}", flush=True)
    print(pd.DataFrame(rows).to_string(max_colwidth=60))
    print(
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
