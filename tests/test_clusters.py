"""One set of questions to three clusters on this machine: Ray, submitit's local processes, Dask's worker processes.

A cluster is started once for all its questions. Calls are functions of this file, so workers find it by PYTHONPATH.
"""

import contextlib
import os
import signal
import tempfile
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from relscale.core import Preempted, UserError, WorkerLost
from relscale.sweep import clusters, ray_dask, slurm

TUNABLES = "glibc.malloc.hugetlb=1"  # glibc reads it when a program starts
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    "GLIBC_TUNABLES": TUNABLES,
    "RELSCALE_WORD": "two words; '1'",
}
STARTS = {
    "slurm": lambda folder: slurm.slurm_executor(
        2,
        environment=ENVIRONMENT,
        options=slurm.SlurmOptions(cluster="local", folder=str(folder)),
    ),
    "dask": lambda folder: ray_dask.dask_executor(2, environment=ENVIRONMENT),
    "ray": lambda folder: ray_dask.ray_executor(2, environment=ENVIRONMENT),
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
    from relscale.sweep.workers import ending

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
    with contextlib.ExitStack() as stack:
        try:
            executor = stack.enter_context(STARTS[request.param](folder))
        except UserError as error:
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray gives its own processes 30 s to start, and this machine is busy")
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
    from relscale.text.documents import Document
    from relscale.text.shards import write_store
    from relscale.text.tokenizer import train_tokenizer

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


def warned_once(folder: Path) -> str:
    """A run that Slurm warns in its first job, and that goes on in its second."""
    from relscale.sweep.workers import ending

    if (folder / "saved").exists():
        return (folder / "saved").read_text()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert ending()
    (folder / "saved").write_text(str(os.getpid()))
    raise Preempted("saved")


def test_a_warned_job_saves_and_comes_back(tmp_path):
    """submitit alone would leave at the signal, before anything is saved."""
    pytest.importorskip("submitit", reason="needs the extra `slurm`")
    with STARTS["slurm"](tmp_path) as executor:
        assert int(executor.submit(warned_once, tmp_path).result(60)) != os.getpid()


IMITATION = {
    "sbatch": """
        id=$(( $(ls -d "$SLURM_STATE"/job-* 2>/dev/null | wc -l) + 1 ))
        mkdir "$SLURM_STATE/job-$id"; cp "$1" "$SLURM_STATE/job-$id/script"
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
        export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
        [ -n "$last" ] && export SLURM_ARRAY_JOB_ID=$id
        for i in $(seq 0 ${last:-0}); do
          name=$id; [ -n "$last" ] && name=${id}_$i
          SLURM_ARRAY_TASK_ID=$i setsid bash "$1" </dev/null >/dev/null 2>&1 & echo $! > "$SLURM_STATE/$name.pid"
        done
        echo "Submitted batch job $id" """,
    "srun": """
        while [ "$1" != env ]; do echo "$1" >> "$SLURM_STATE/srun"; shift; done
        exec "$@" """,
    "sacct": """
        echo "JobID|State|NodeList"
        for file in "$SLURM_STATE"/*.pid; do
          state=RUNNING; kill -0 $(cat $file) 2>/dev/null || state=FAILED
          echo "$(basename $file .pid)|$state|here"
        done""",
    "scancel": """
        for file in "$SLURM_STATE/$1".pid; do kill -TERM -- -$(cat $file); done""",
}


def test_slurms_commands(tmp_path, monkeypatch):
    """A Slurm of four shell scripts: what each option becomes, answers, a lost job, and scancel."""
    pytest.importorskip("submitit", reason="needs the extra `slurm`")
    (tmp_path / "bin").mkdir()
    for name, code in IMITATION.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STATE", str(tmp_path))
    monkeypatch.setattr(slurm, "LATE_S", 0.5)
    options = slurm.SlurmOptions(
        folder=str(tmp_path / "shared"),
        timeout_min=90,
        memory_gb=6,
        cpus_per_run=1,
        gpus_per_run=2,
        partition="short",
        account="lab",
        qos="low",
        grace_s=45,
        setup=("export MODULE=loaded",),
        sbatch={"constraint": "a100"},
        ask_every_s=0.5,
    )
    with slurm.slurm_executor(3, environment=ENVIRONMENT, options=options) as executor:
        (scratch,) = (tmp_path / "shared").iterdir()
        assert scratch.stat().st_mode & 0o777 == 0o700
        right = executor.submit(at_start, "MODULE"), executor.submit(at_start, "RELSCALE_WORD")
        dead = executor.submit(die)
        assert [future.result(60) for future in right] == ["loaded", ENVIRONMENT["RELSCALE_WORD"]]
        assert isinstance(dead.exception(60), WorkerLost)
        assert "FAILED" in str(dead.exception())
        running = executor.submit(until_told, tmp_path, "long")
        while not (tmp_path / "long.began").exists():
            time.sleep(0.05)
        executor.shutdown(cancel_futures=True)
    assert running.cancelled() or isinstance(running.exception(), Preempted)
    assert (tmp_path / "long.saved").exists()
    script = (tmp_path / "job-1" / "script").read_text()
    for flag in (
        "account=lab", "array=0-2%3", "constraint=a100", "cpus-per-task=1", "gpus-per-node=2", "mem=6GB",
        "partition=short", "qos=low", "signal=USR2@45", "time=90",
    ):  # fmt: skip
        assert f"#SBATCH --{flag}\n" in script
    assert {"--cpus-per-task=1", "--cpu-bind=cores"} <= set((tmp_path / "srun").read_text().split())
    assert not list((tmp_path / "shared").iterdir())


class Imaginary:
    """A cluster that never answers, and is gone when `gone` is set."""

    num_cores, gone = 1, False

    def room(self, num_running):
        return 2 - num_running

    def start(self, calls):
        return calls

    def answers(self, handles):
        if self.gone:
            raise OSError("no route to the scheduler")
        return [None] * len(handles)

    def end(self, handles):
        pass


def test_nobody_waits_for_a_cluster_that_is_gone():
    cluster = Imaginary()
    executor = clusters.ClusterExecutor(cluster, every_s=0.01)
    futures = [executor.submit(abs, -1) for _ in range(3)]
    assert not wait(futures, timeout=0.1).done
    cluster.gone = True
    assert not wait(futures, timeout=10).not_done
    assert {str(future.exception()) for future in futures} == {"no route to the scheduler"}
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)
    executor.shutdown()


def test_a_call_that_does_not_end_is_given_up():
    executor = clusters.ClusterExecutor(Imaginary(), every_s=0.01, grace_s=0.2)
    futures = [executor.submit(abs, -1) for _ in range(3)]
    assert not wait(futures, timeout=0.1).done
    assert futures[0].cancel()  # one that was handed over: the cluster is asked
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures] == [True, False, True]
    assert isinstance(futures[1].exception(), WorkerLost)


def test_slips_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cpus_per_run=0"):
        ray_dask.RayOptions(cpus_per_run=0)
    with pytest.raises(UserError, match="memory_gb"):
        ray_dask.DaskOptions(address="tcp://head:8786", memory_gb=4)
    with pytest.raises(UserError, match="cluster='pbs'"):
        slurm.SlurmOptions(cluster="pbs")
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("submitit", reason="needs the extra `slurm`")
    with (
        pytest.raises(UserError, match="no sbatch"),
        slurm.slurm_executor(options=slurm.SlurmOptions(folder=str(tmp_path))),
    ):
        pass
    with pytest.raises(UserError, match="num_workers=0"), slurm.slurm_executor(0):
        pass


def test_dasks_workers_that_cannot_do_are_told():
    """Workers that were started elsewhere, without the environment or with several threads."""
    distributed = pytest.importorskip("distributed", reason="needs the extra `dask`")
    there = {"processes": False, "dashboard_address": None}
    for threads, match in ((1, "without .RELSCALE_WORD=a b"), (2, "several threads")):
        with distributed.LocalCluster(n_workers=1, threads_per_worker=threads, **there) as cluster:
            options = ray_dask.DaskOptions(address=cluster.scheduler_address)
            with (
                pytest.raises(UserError, match=match),
                ray_dask.dask_executor(environment={"RELSCALE_WORD": "a b"}, options=options),
            ):
                pass


def test_a_call_gives_its_cores_back(tmp_path, monkeypatch):
    """One core while the block runs, and afterwards all that were there; the locks lie in a folder of the test."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.sched_getaffinity(0)
    with clusters.pinned(1) as cores:
        assert len(cores) == 1 and os.sched_getaffinity(0) == cores
    assert os.sched_getaffinity(0) == before


def test_a_worker_that_is_slow_to_go_is_no_error(monkeypatch):
    """Dask raises a TimeoutError without a word when a killed worker is not gone soon enough; the work is done by then."""
    pytest.importorskip("distributed", reason="needs the extra `dask`")
    from distributed.nanny import WorkerProcess

    raised, kill = [], WorkerProcess.kill

    async def hurried(self, timeout=5, **told):
        """Dask's own way to end a worker, which has a millisecond for it."""
        try:
            await kill(self, timeout=1e-3, **told)
        except TimeoutError as error:
            raised.append(str(error))
            raise

    monkeypatch.setattr(WorkerProcess, "kill", hurried)
    with ray_dask.dask_executor(1, environment=ENVIRONMENT) as executor:
        worker = executor.submit(os.getpid).result(60)
    assert raised == [""]  # it was raised, and it has no word
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
