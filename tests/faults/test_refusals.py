"""A machine that refuses: full, read-only and vanished file systems, too many open files, no memory.

Each is told by its name, in one line that begins with what the user calls the file, and the same call goes on
afterwards. The file systems are real ones in memory, so these tests need root; limits are those of the kernel.
"""

import contextlib
import errno
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.cli import main
from relscale.core import MachineError, UserError, claim, machine_error, write_atomic
from relscale.sweep.store import connect
from relscale.tables import read_as_is, write_table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from faults import fill, small_disk


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    try:
        with small_disk(tmp_path / "disk", "1m") as folder:
            yield folder
    except subprocess.CalledProcessError:
        pytest.skip("mounting a small file system needs root")


def table(suffix):
    return lambda where: write_table(frame(), where / f"runs{suffix}")


def frame():
    return pd.DataFrame({"run_id": [f"r{i}" for i in range(4000)], "loss": np.arange(4000) / 7})


def tokens(where):
    tokens_ = pytest.importorskip("relscale.text.tokens")
    where.mkdir(exist_ok=True)
    tokens_.write_array(
        where, "tokens", [np.random.default_rng(0).integers(0, 2**15, 40_000)], 40_000
    )


WRITERS = {
    "a text": lambda where: write_atomic(where / "a.json", b"1" * 9000),
    "a table in CSV": table(".csv"),
    "a table in Parquet": table(".parquet"),
    "an object": lambda where: connect(where).write("runs/a/x.json", b"1" * 9000),
    "a new object": lambda where: connect(where).create("runs/b/y.json", b"1" * 9000),
    "a copied file": lambda where: connect(where).put_file("z", Path(sys.executable)),
    "tokens": tokens,
}  # fmt: skip


def told(act, where, *words):
    """The one line of a call that the machine refuses."""
    with pytest.raises(Exception) as caught:
        act(where)
    line = machine_error(caught.value, where)
    assert line is not None, repr(caught.value)
    assert str(line).startswith(str(where)) and "\n" not in str(line), line
    assert all(word in str(line) for word in (*words, "run the same command again")), line
    assert ".part" not in str(line) and "__lock" not in str(line), line
    return line


@pytest.mark.parametrize("what", [w for w in WRITERS if w != "a copied file"])
def test_a_full_and_a_read_only_disk(disk, what):
    where = disk / "store"
    where.mkdir()
    filler = fill(disk, leave=0)
    assert told(WRITERS[what], where, "no space left on the disk; free some").kind == "full-disk"
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert told(WRITERS[what], where, "read-only; mount it for writing").kind == "read-only"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    WRITERS[what](where)
    assert not list(where.rglob(".*.part"))


def test_a_mount_that_vanishes_is_not_written_below(tmp_path):
    """The bug planted: without the look at the device a second store begins on the disk below."""
    below = tmp_path / "disk"
    try:
        with small_disk(below, "1m"):
            store = connect(below / "store")
            store.write("runs/a", b"1")
    except subprocess.CalledProcessError:
        pytest.skip("mounting a small file system needs root")
    for act in (
        store.find,
        store.delete,
        lambda n: store.write(n, b""),
        lambda n: store.create(n, b""),
    ):
        with pytest.raises(MachineError, match="store: its file system is gone; mount it again"):
            act("runs/a")
    assert not list(below.iterdir())


@contextlib.contextmanager
def limit(what, amount):
    """A lower limit of this process."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (amount, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_too_many_open_files(tmp_path):
    write_table(frame(), tmp_path / "runs.csv")
    connect(tmp_path).write("a", b"1")
    acts = [WRITERS["a text"], WRITERS["an object"], lambda where: connect(where).find("a"),
            lambda where: read_as_is(where / "runs.csv"), lambda where: claim(where).__enter__()]  # fmt: skip
    for act in acts:
        free = os.dup(0)  # the lowest number that is free
        os.close(free)
        with limit(resource.RLIMIT_NOFILE, free):
            with pytest.raises(Exception) as caught:
                act(tmp_path)
            line = machine_error(caught.value)
        assert line is not None and line.kind == "open-files" and str(tmp_path) in str(line), line
    assert connect(tmp_path).find("a").content == b"1"


def test_a_file_that_may_not_grow(tmp_path):
    """The limit of a shell; Python ignores the signal that goes with it."""
    with limit(resource.RLIMIT_FSIZE, 4096):
        for what in (
            "a table in CSV",
            "a table in Parquet",
            "an object",
            "a copied file",
            "tokens",
        ):
            told(WRITERS[what], tmp_path / "x", "may not grow any larger", "ulimit -f")
    WRITERS["a table in CSV"](tmp_path / "x")


def test_no_memory(tmp_path):
    """A table of 480 MB in a process that may take 60 MB more; Arrow and NumPy say so in ways of their own."""
    many = np.random.default_rng(0).integers(
        0, 1000, 60_000_000
    )  # zeros would be refused for what they unpack to
    pd.DataFrame({"x": many}).to_parquet(tmp_path / "big.parquet")
    code = """
import resource, sys
from relscale.core import machine_error
from relscale.tables import read_as_is
import numpy, pandas
pandas.DataFrame({"x": [0.0]}).to_parquet("small.parquet")
read_as_is("small.parquet")  # Arrow starts its threads, which it never does under the limit
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 10**7, resource.RLIM_INFINITY))
for act in (lambda: read_as_is("big.parquet"), lambda: numpy.zeros(10**9)):
    try:
        act()
    except Exception as error:
        print(machine_error(error))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print(len(read_as_is("small.parquet")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith("big.parquet: not enough memory; free some"), done
    assert lines[1].startswith("not enough memory") and lines[2] == "1", done


SAID = {
    errno.EDQUOT: "quota is used up", errno.ESTALE: "its file system is gone", errno.EIO: "does not answer",
    errno.EACCES: "permission denied", errno.ENOTCONN: "its file system is gone", errno.EMFILE: "too many open files",
}  # fmt: skip


@pytest.mark.parametrize("number", SAID)
def test_what_cannot_be_staged_is_told_all_the_same(tmp_path, monkeypatch, capsys, number):
    """A quota, a mount that has gone stale, a disk that does not answer: by number here, and by text from TensorStore."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "runs.csv").write_text("run_id\na\n")
    monkeypatch.setattr(pd, "read_csv", refuse)
    assert main(["report", str(tmp_path / "runs.csv"), "--baseline", "a"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and SAID[number] in said[0] and "cut short" not in said[0], said
    text = f"UNKNOWN: Error reading local file: {os.strerror(number)} [os_error_code='{number}']"
    assert SAID[number] in str(machine_error(ValueError(text), "tokens"))


def test_a_refusal_is_told_once_and_survives_a_process_boundary():
    line = machine_error(OSError(errno.ENOSPC, "", "/x/.a.csv.77.part"))
    again = pickle.loads(pickle.dumps(line))
    assert (str(again), again.kind) == (str(line), "full-disk") and machine_error(line) is line
    assert isinstance(line, UserError) and isinstance(
        line, OSError
    )  # where a lost heartbeat is passed over, it is
    assert (
        machine_error(UserError("a: damaged")) is None
        and machine_error(FileNotFoundError(2, "x")) is None
    )
