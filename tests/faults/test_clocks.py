"""Leases where clocks, file systems and networks break their promises: nothing is trained twice into the record.

Two machines with clocks two hours apart are in `test_faults.py`, clocks that jump under every order of moves in
`test_store.py`. `benchmarks/faults.py` does all of them at length.
"""

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from s3_server import Weather, bucket
from test_faults import begun
from test_sweep import counted, quiet, start, tables  # noqa: F401

from relscale.sweep import store as store_module
from relscale.sweep.leases import LeaseLost, LeaseRule, Watch, mark, read_lease, take
from relscale.sweep.store import Found, connect

RULE, STALE_S = LeaseRule(3.0, 30.0), 3.0


class Mount:
    """One machine's view of a folder over NFS: no locks, and each name as it was up to three seconds ago.

    Creating by a hard link is exclusive on the server; all else is what this machine believes.
    """

    local = Path("/nfs")

    def __init__(self, server: dict, clock):
        self.server, self.clock, self.cache = server, clock, {}

    def find(self, name):
        found, since = self.cache.get(name, (None, -1e9))
        if self.clock() - since >= STALE_S:
            found, since = self.server.get(name), self.clock()
            self.cache[name] = found, since
        return found

    def create(self, name, content):
        return None if name in self.server else self.write(name, content)

    def replace(self, name, content, version):
        found = self.find(name)
        return self.write(name, content) if found and found.version == version else None

    def write(self, name, content):
        self.server[name] = Found(content, content)
        self.cache[name] = self.server[name], self.clock()
        return content


MOVES = st.lists(
    st.tuples(
        st.sampled_from("bccrwwtt"), st.integers(0, 2), st.sampled_from([0.0, 0.5, 2, 8, 16])
    ),
    min_size=10,
    max_size=60,
)


@given(MOVES)
@example([("t", 0, 0.0), *[("w", 1, 16)] * 4, ("t", 1, 0.0), ("c", 0, 8)])
@settings(max_examples=150, deadline=None, derandomize=True)
def test_an_attempt_has_one_owner_over_nfs(moves):
    """Three machines without locks and with old views: each attempt is one machine's, and an older one ends soon.

    Soon is when the view is fresh again. Seen to fail when `take` writes the record without the token, and when
    `check` does not ask for the next one.
    """
    now, server, held, dead, owners, begun_at = [0.0], {}, {}, {}, {}, {}
    mounts = [Mount(server, lambda: now[0]) for _ in range(3)]
    watches = [Watch(RULE, lambda: now[0]) for _ in range(3)]
    for move, who, pause in moves:
        now[0] += pause
        store = mounts[who]
        if move == "b" and who in held:
            held[who].beat()
        elif move == "r" and who in held:
            held.pop(who).release("preempted")
        elif move == "w" and who not in held:
            dead[who] = watches[who].dead("x", read_lease(store, "lease.json"))
        elif move == "t" and who not in held:
            lease = take(store, "lease.json", RULE, dead=dead.pop(who, None), clock=lambda: now[0])
            if lease is not None:
                lease.record = {**lease.record, "machine": f"machine {who}"}
                attempt = lease.record["attempt"]
                assert attempt not in owners, "one attempt, two owners"
                owners[attempt], begun_at[attempt], held[who] = who, now[0], lease
        elif move == "c" and who in held:
            attempt = held[who].record["attempt"]
            try:
                held[who].check()
                assert now[0] - begun_at.get(attempt + 1, now[0]) < STALE_S, "an attempt outlived"
            except LeaseLost:
                del held[who]


def test_a_late_heartbeat_of_a_predecessor_does_not_end_an_attempt(tmp_path):
    """An old owner, stopped in the middle of its write, lays its record over the new one's; the new one's beat mends it."""
    store = connect(tmp_path)
    old = take(store, "lease.json")
    new = take(store, "lease.json", dead=mark(old.record))
    store.write("lease.json", store.find(".lease.json.1").content)  # the write arrives now
    assert read_lease(store, "lease.json")["attempt"] == 2
    assert take(store, "lease.json") is None  # what lies there is attempt 1, but attempt 2 is known
    new.beat()
    new.check(now=True)
    with pytest.raises(LeaseLost):
        old.check()
    (tmp_path / "lease.json").write_bytes(b"torn")
    assert read_lease(store, "lease.json")["attempt"] == 2 and take(store, "lease.json") is None
    new.release("preempted")
    assert take(store, "lease.json").record["attempt"] == 3


def test_a_watcher_that_slept_or_whose_clock_jumped_declares_nobody_dead():
    """An owner that beats every 3 s, watched each second while the watcher's clock jumps and the machine sleeps."""
    for jump in (3600.0, -3600.0):
        now, off, owner = 0.0, 0.0, {"state": "held", "machine": None, "owner": "o", "beat": 0}
        watch = Watch(RULE, lambda: now + off)  # noqa: B023
        for second in range(90):
            now += 1.0
            owner["beat"] = second // 3
            off += jump * (second in (20, 41, 42))
            assert watch.dead("x", owner) is None, (jump, second)
        silent = 0
        while watch.dead("x", owner) is None:
            now += 1.0
            silent += 1
        assert 28 <= silent <= 33  # 30 s since the last beat, which was 2 s before the count began


def test_a_driver_that_was_stopped_past_its_leases_goes_on(quiet, tmp_path):  # noqa: F811
    """SIGSTOP to a driver and its workers; another one takes all over and ends; then the first goes on.

    No run is finished twice, and what the first still had in its hands is not written.
    """
    where, log = tmp_path / "store", tmp_path / "log"
    first = start(where, 6, log, workers=1, row_s=0.03)
    begun(where, 1, first, "runs/*/checkpoints/*")
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        second = start(where, 6, log, workers=2)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 0, err
        kept = {p: p.read_bytes() for p in where.glob("runs/*/*.json*") if "lease" not in p.name}
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert tables(where) == tables(quiet)
    assert set(counted(log).values()) == {1} and len(counted(log)) == 6
    now = {p: p.read_bytes() for p in kept}
    assert {p for p in kept if now[p] != kept[p]} == set()


@pytest.mark.long
def test_a_sweep_in_a_bucket_in_bad_weather(quiet, tmp_path):  # noqa: F811
    """Requests and answers are dropped, late, repeated, and arrive once more when all have gone on."""
    weather, log = Weather(0, one_in=8), tmp_path / "log"
    with bucket(weather) as where:
        driver = start(where, 6, log)
        _, err = driver.communicate(timeout=180)
        assert driver.returncode == 0, err
        got = tables(where)
    assert got == tables(quiet)
    assert set(counted(log).values()) == {1} and len(counted(log)) == 6
    assert len(weather.seen) == 6 and sum(weather.seen.values()) > 50, weather.seen


def test_a_stopped_holder_of_a_lock_stops_nobody(tmp_path, monkeypatch):
    """A process that is stopped as it renews its lease keeps the folder's lock: others go on without it, by tokens."""
    monkeypatch.setattr(store_module, "LOCK_S", 0.2)
    store = connect(tmp_path)
    lease = take(store, "lease.json")
    with open(tmp_path / ".lock", "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        begun_s = time.monotonic()
        with pytest.raises(TimeoutError, match="locked by a process that is stopped"):
            store.replace("lease.json", b"x", store.find("lease.json").version)
        second = take(store, "lease.json", dead=mark(lease.record))
        second.beat()
        assert time.monotonic() - begun_s < 5
    second.check(now=True)
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_folder_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = connect(tmp_path)
    lease = take(store, "lease.json")
    lease.beat()
    lease.check(now=True)
    assert take(store, "lease.json") is None
