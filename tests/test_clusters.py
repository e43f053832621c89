"""One set of questions to three clusters on this machine: Ray, submitit's local processes, Dask's worker processes.

A cluster is started once for all its questions. Calls are functions of this file, so workers find it by PYTHONPATH.
"""

import os
import signal
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from relscale import clusters
from relscale.core import Preempted, WorkerLost

TUNABLES = "glibc.malloc.hugetlb=1"  # glibc reads it when a program starts
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    "GLIBC_TUNABLES": TUNABLES,
    "RELSCALE_WORD": "two words; '1'",
}
STARTS = {
    "slurm": lambda folder: clusters.slurm_executor(
        2,
        environment=ENVIRONMENT,
        options=clusters.SlurmOptions(cluster="local", folder=str(folder)),
    ),
    "dask": lambda folder: clusters.dask_executor(2, environment=ENVIRONMENT),
    "ray": lambda folder: clusters.ray_executor(2, environment=ENVIRONMENT),
}
LIBRARIES = {"ray": "ray", "dask": "distributed", "slurm": "submitit"}


class OwnError(Exception):
    """An exception with an argument, to see that it comes back whole."""


def square(i: int, folder: Path) -> int:
    (folder / f"{i}.ran").touch()
    return i * i


def fail(text: str):
    raise OwnError(text, 7)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_start(name: str) -> str:
    """A variable as it was when this process's program started, not as Python may have set it since."""
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    return dict(e.decode().split("=", 1) for e in entries if b"=" in e).get(name)


def cores_for(seconds: float) -> tuple[float, float, set]:
    start = time.time()
    time.sleep(seconds)
    return start, time.time(), os.sched_getaffinity(0)


def until_told(folder: Path, name: str) -> str:
    """Runs until it is asked to end, as training does: by the flag, or SIGTERM's in the main thread."""
    from relscale.sweep import ending

    (folder / f"{name}.began").touch()
    for _ in range(600):
        if ending():
            (folder / f"{name}.saved").touch()
            raise Preempted(name)
        time.sleep(0.05)
    return "never told"


@pytest.fixture(scope="module", params=[*STARTS])
def cluster(request, tmp_path_factory):
    pytest.importorskip(LIBRARIES[request.param], reason=f"needs the extra `{request.param}`")
    folder = tmp_path_factory.mktemp(request.param)
    start = time.monotonic()
    with STARTS[request.param](folder) as executor:
        yield executor
    assert "RELSCALE_WORD" not in os.environ  # the driver has its own again
    assert not list(folder.glob(".submitit*"))  # submitit's pickles are gone
    print(f"{request.param}: {time.monotonic() - start:.1f} s")


def test_calls_answers_errors_and_a_killed_worker(cluster, tmp_path):
    futures = [cluster.submit(square, i, tmp_path) for i in range(3)]
    wrong, dead = cluster.submit(fail, "seven"), cluster.submit(die)
    futures += [cluster.submit(square, i, folder=tmp_path) for i in range(3, 6)]
    done, left = wait([*futures, wrong, dead], timeout=60)
    assert not left
    assert [future.result() for future in futures] == [0, 1, 4, 9, 16, 25]
    assert type(wrong.exception()) is OwnError and wrong.exception().args == ("seven", 7)
    assert "in fail" in wrong.exception().__notes__[0]
    assert type(dead.exception()) is WorkerLost
    assert cluster.submit(square, 9, tmp_path).result(30) == 81


def test_the_environment_is_there_before_the_program(cluster):
    values = [
        cluster.submit(at_start, name).result(30) for name in ("GLIBC_TUNABLES", "RELSCALE_WORD")
    ]
    assert values == [TUNABLES, ENVIRONMENT["RELSCALE_WORD"]]


def test_calls_side_by_side_have_cores_of_their_own(cluster):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    spans = [f.result(60) for f in [cluster.submit(cores_for, 1.0) for _ in range(2)]]
    (a0, a1, first), (b0, b1, second) = spans
    assert len(first) == len(second) == 1
    if max(a0, b0) < min(a1, b1):  # they overlapped
        assert first != second


def test_a_corpus_in_shards_is_the_store_of_a_serial_run(cluster, tmp_path):
    pytest.importorskip("tokenizers", reason="token stores need the extra `train`")
    from relscale.documents import Document
    from relscale.tokenizer import train_tokenizer
    from relscale.tokens import write_store

    documents = [Document("d", str(i), f"{i:b} text " * 40) for i in range(6)]
    tokenizer = train_tokenizer([d.text for d in documents], 265)
    parallel = {"executor": cluster, "shard_bytes": 1200}
    stores = [
        write_store(tmp_path / name, documents, tokenizer, **how)
        for name, how in {"serial": {}, "parallel": parallel}.items()
    ]
    first, second = (
        {p.relative_to(s.folder): p.read_bytes() for p in s.folder.rglob("*") if p.is_file()}
        for s in stores
    )
    assert first == second


def test_z_asked_to_end(cluster, tmp_path):
    """What runs ends in its own way and is waited for; what has not begun is cancelled. The last question."""
    running = [cluster.submit(until_told, tmp_path, str(i)) for i in range(2)]
    later = [cluster.submit(until_told, tmp_path, str(i)) for i in range(2, 5)]
    while len(list(tmp_path.glob("*.began"))) < 2:
        time.sleep(0.05)
    cluster.shutdown(cancel_futures=True)
    assert {path.name for path in tmp_path.glob("*.saved")} == {"0.saved", "1.saved"}
    assert all(future.cancelled() for future in later)
    for future in running:
        assert future.cancelled() or type(future.exception()) is Preempted
    print([future.cancelled() for future in running])
    with pytest.raises(RuntimeError, match="after shutdown"):
        cluster.submit(square, 1, tmp_path)
