"""Stores under several writers at once, and leases under pauses, crashes and clocks that disagree."""

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from s3_server import bucket

from relscale.core import UserError
from relscale.sweep.folders import download, files_under, upload
from relscale.sweep.leases import Lease, LeaseLost, LeaseRule, Watch, mark, take, this_process
from relscale.sweep.store import Found, connect, seal, unseal


@pytest.fixture(scope="module")
def bucket_url():
    with bucket() as url:
        yield url


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    where = (
        tmp_path / "store" if request.param == "folder" else request.getfixturevalue("bucket_url")
    )
    return connect(f"{where}/{uuid.uuid4().hex}")


def test_an_object_is_written_read_listed_and_removed(store):
    assert store.find("runs/a/x.json") is None and store.names("runs") == []
    store.write("runs/a/x.json", b"1")
    store.write("runs/a/x.json", b"2")
    store.write("runs/b", b"")
    assert store.find("runs/a/x.json").content == b"2"
    assert store.names("runs") == ["runs/a/x.json", "runs/b"]
    assert store.names("runs/a") == ["runs/a/x.json"]
    store.delete("runs/a/x.json")
    store.delete("runs/a/x.json")
    assert store.find("runs/a/x.json") is None


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/../../b", "a\\b", "", "."])
def test_names_that_could_leave_the_store_are_refused(store, name):
    for act in (
        store.find,
        store.delete,
        lambda n: store.write(n, b""),
        lambda n: store.create(n, b""),
    ):
        with pytest.raises(UserError, match="not a name in a store"):
            act(name)


@pytest.mark.parametrize("rounds", [40])
def test_of_many_writers_at_once_one_wins(store, rounds):
    """Four threads create one name, then replace one version, in turn: exactly one succeeds each time.

    The bug planted: `replace` without its lock, or `create` by `exists` then `write`, lets two win.
    """
    for i in range(rounds):
        base = None
        for turn in ("create", "replace"):
            won, start = [], threading.Barrier(4)

            def go(me, turn=turn, i=i, base=base, start=start, won=won):
                start.wait()
                content = f"{turn} {me}".encode()
                if turn == "create":
                    version = store.create(f"r/{i}", content)
                else:
                    version = store.replace(f"r/{i}", content, base)
                if version is not None:
                    won.append((content, version))

            threads = [threading.Thread(target=go, args=(me,)) for me in range(4)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            found = store.find(f"r/{i}")
            assert won == [(found.content, found.version)]
            base = found.version


def test_of_two_processes_one_wins(tmp_path):
    """The same of processes, since threads of one share file handles and locks in part."""
    code = (
        "import sys; from relscale.sweep.store import connect; s = connect(sys.argv[1])\n"
        "for i in range(300):\n"
        "    f = s.find('n') ; n = int(f.content.split()[0])\n"
        "    while not s.replace('n', f'{n + 1} {sys.argv[2]} {i}'.encode(), f.version):\n"
        "        f = s.find('n') ; n = int(f.content.split()[0])\n"
    )
    connect(tmp_path).write("n", b"0")
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path, str(i)]) for i in range(2)]
    assert [r.wait() for r in runs] == [0, 0]
    assert connect(tmp_path).find("n").content.split()[0] == b"600"  # no increment was lost


def test_a_folder_is_whole_or_not_there(store, tmp_path):
    source = tmp_path / "model"
    for i in range(12):
        path = source / f"part{i % 3}" / f"{i}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 + i))
    upload(store, files_under(source), "m", manifest="m.json")
    download(store, "m", tmp_path / "back", manifest="m.json")
    assert {n: p.read_bytes() for n, p in files_under(tmp_path / "back").items()} == {
        n: p.read_bytes() for n, p in files_under(source).items()
    }
    store.delete("m/part0/3.bin")
    with pytest.raises(UserError, match="gone|3.bin"):
        download(store, "m", tmp_path / "again", manifest="m.json")
    store.write("m.json", store.find("m.json").content[:-20])
    with pytest.raises(UserError, match="m.json: absent or damaged"):
        download(store, "m", tmp_path / "again", manifest="m.json")
    assert not (tmp_path / "again").exists() and not list(tmp_path.glob("*.part"))


def test_a_manifest_cannot_write_outside(store, tmp_path):
    store.write("m.json", seal({"files": {"../../evil": [1, "0"]}}))
    store.write("evil", b"x")
    with pytest.raises(UserError, match="not a name"):
        download(store, "m", tmp_path / "in" / "out", manifest="m.json")
    assert not (tmp_path / "evil").exists()


def test_links_out_of_a_folder_store_are_refused(tmp_path):
    store = connect(tmp_path / "store")
    (tmp_path / "secret").mkdir()
    store.write("runs/a/x", b"1")
    (tmp_path / "store/runs/b").symlink_to(tmp_path / "secret")
    for act in (store.find, lambda n: store.write(n, b""), lambda n: store.create(n, b"")):
        with pytest.raises(UserError, match="leads out of"):
            act("runs/b/x")
    assert not list((tmp_path / "secret").iterdir())


@pytest.mark.parametrize("where", ["ftp://x/y", "s3://", "s3:///", "http://bucket.example/x"])
def test_an_unknown_place_is_one_line(where):
    with pytest.raises(UserError, match="give a folder, or s3://bucket/name"):
        connect(where)


@given(st.binary(max_size=300), st.dictionaries(st.text(max_size=5), st.integers() | st.text()))
@settings(max_examples=200, deadline=None)
def test_a_seal_tells_damage(noise, record):
    """Any bytes but those of `seal` read as None; a record comes back as it was."""
    record.pop("seal", None)
    sealed = seal(record)
    assert unseal(sealed) == record and unseal(noise) is None
    for at in range(0, len(sealed), 7):
        changed = sealed[:at] + bytes([sealed[at] ^ 4]) + sealed[at + 1 :]
        assert unseal(changed) in (None, record)  # white space may change


# A holder on another machine, whose process cannot be looked up: only its beats speak for it.
def take_far(store, name, rule, **kwargs) -> Lease | None:
    lease = take(store, name, rule, **kwargs)
    if lease is not None:
        lease.record = {**lease.record, "machine": f"far {id(lease)}"}
        lease.beat()
    return lease


class Dict:
    """A store in memory, as fast as examples by the thousand need it."""

    def __init__(self):
        self.held = {}

    def find(self, name):
        return self.held.get(name)

    def create(self, name, content):
        return None if name in self.held else self._put(name, content)

    def replace(self, name, content, version):
        found = self.held.get(name)
        return self._put(name, content) if found and found.version == version else None

    def _put(self, name, content):
        self.held[name] = Found(content, content)
        return content


MOVES = st.lists(
    st.tuples(
        st.sampled_from("bcrwwttj"), st.integers(0, 1), st.sampled_from([0.1, 8, 13, 16, 31])
    ),
    min_size=6,
    max_size=40,
)


@given(MOVES)
@example([("t", 0, 0.1), ("w", 1, 0.1), ("w", 1, 13), ("t", 1, 0.1), ("c", 0, 0.1)])
@example([("t", 1, 0.1), *[("w", 0, 16)] * 4, ("j", 1, 0.1), ("t", 0, 0.1), ("c", 0, 0.1)])
@settings(max_examples=1000, deadline=None, derandomize=True)
def test_two_never_hold_a_lease(moves):
    """Machines beat, pause, release, watch, and take over, in any order: never do two pass `check`.

    Each machine's clock starts elsewhere, hours apart, and jumps an hour back and forth. One that was paused
    may believe in its lease only until it checks. Seen to fail when `take` ignores which mark was dead, when
    `check` does not renew an old lease or one of the future, and when a watcher waits for less than a holder
    may be silent.
    """
    store, rule = Dict(), LeaseRule(3.0, 30.0)
    now, held, dead, off = [0.0], {}, {}, [0.0, 3600.0]
    clocks = [lambda k=k: now[0] + off[k] for k in range(2)]
    watches = [Watch(rule, clock) for clock in clocks]
    for move, who, pause in moves:
        now[0] += pause
        if move == "b" and who in held:
            held[who].beat()
        elif move == "j":
            off[who] = 3600.0 - off[who]
        elif move == "r" and who in held:
            held.pop(who).release("preempted")
        elif move == "w" and who not in held:
            found = store.find("lease.json")
            if mark := watches[who].dead("x", unseal(found.content) if found else None):
                dead[who] = mark
        elif move == "t" and who not in held:
            mark = dead.pop(who, None)
            if taken := take_far(store, "lease.json", rule, dead=mark, clock=clocks[who]):
                held[who] = taken
        elif move == "c":
            passed = []
            for k in list(held):
                try:
                    held[k].check()
                    passed.append(k)
                except LeaseLost:
                    del held[k]
            assert len(passed) <= 1


def test_a_lease_is_taken_by_one_of_many_threads(store):
    for i in range(15):
        got, start = [], threading.Barrier(4)

        def go(i=i, got=got, start=start):
            start.wait()
            if lease := take(store, f"l/{i}.json"):
                got.append(lease)

        threads = [threading.Thread(target=go) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert len(got) == 1


def test_an_owner_that_is_gone_is_not_waited_for(tmp_path):
    """A process takes a lease and is killed: the next one takes it at once, and says so."""
    code = (
        "import sys, os; from relscale.sweep.store import connect; from relscale.sweep.leases import take\n"
        "take(connect(sys.argv[1]), 'lease.json') ; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path])
    store = connect(tmp_path)
    assert unseal(store.find("lease.json").content)["state"] == "held"
    lease = take(store, "lease.json")
    assert [p["outcome"] for p in lease.record["past"]] == ["lost"] and lease.record["attempt"] == 2
    assert take(store, "lease.json") is None  # this process lives


def test_a_kept_lease_outlives_its_limit_and_a_lost_one_is_noticed(store):
    """Renewed by its thread it stays, watched for three limits; silent, it goes within two."""
    rule = LeaseRule(0.05, 0.4)
    lease, watch = take_far(store, "lease.json", rule), Watch(rule)

    def watched(seconds: float) -> str | None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if dead := watch.dead("x", unseal(store.find("lease.json").content)):
                return dead
            time.sleep(0.02)
        return None

    with lease.kept():
        assert watched(1.2) is None
        lease.check()
    lease._done.clear()  # as a process that was stopped, and goes on
    dead = watched(3.0)
    assert dead is not None
    assert take(store, "lease.json", rule, dead="another mark") is None
    assert take(store, "lease.json", rule, dead=dead) is not None
    with pytest.raises(LeaseLost):
        time.sleep(0.25)
        lease.check()


def test_a_clock_an_hour_off_changes_nothing(store):
    """No record of a lease holds a time of day: two takers that differ in it write the same fields."""
    lease = take(store, "lease.json")
    now = time.time()
    numbers = [v for v in lease.record.values() if isinstance(v, (int, float))]
    assert all(abs(v - now) > 1e6 for v in numbers) and this_process()["pid"] in numbers


@pytest.mark.parametrize("given_back", [True, False])
def test_a_lease_remembers_its_last_twenty_attempts(tmp_path, given_back):
    """A run that was taken 26 times: the oldest five endings are forgotten, and the newest stays."""
    store, dead = connect(tmp_path), None
    for _ in range(26):
        lease = take(store, "lease.json", dead=dead)
        past = lease.record["past"]
        lease.release("preempted") if given_back else None
        dead = mark(lease.record)
    assert [end["attempt"] for end in past] == list(range(6, 26))
