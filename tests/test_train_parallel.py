"""One training run, three ways of computing it: one device, a mesh of eight, two processes on a mesh.

Every way adds the same float32 numbers in another order, so losses may differ by rounding, which 20 steps
carry on: 1e-5 of the loss bounds that. A row fed twice, a mean of the wrong count, a gradient summed over
one axis too few or a shard out of place move it by 1e-3 and more.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from relscale.core import UserError, WorkerLost

pytest.importorskip("jax", reason="training needs the extra `train`")

COMMON = """
import dataclasses, json, sys
import jax, numpy as np
from relscale.core import Preempted
from relscale.model.optim import hyper_of
from relscale.model.checkpoints import CheckpointPolicy
from relscale.model.mesh import feed_share, layout, make_mesh, place_rows
from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, RunSpec
from relscale.model.training import read_metrics, start_state, train, train_step

spec = ModelSpec(hidden=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp=64, vocab=96)
run = RunSpec("r", "all", (("a", 1.0),), 1e9, spec, OptimSpec(0.003, warmup=0.2), 16, 16, 40,
              compute=ComputeSpec(remat="block"))
muon = OptimSpec(0.01, rule="muon", cautious=False, corrected_decay=False, adam_learning_rate=0.003)
muon = dataclasses.replace(run, optim=muon)
muon_parts = dataclasses.replace(muon, compute=ComputeSpec(accumulate=2, remat="block"))

class Rows:
    def __init__(self, share=(0, 1), cut_at=None):
        self.share, self.cut_at = share, cut_at
    def __getitem__(self, step):
        if step == self.cut_at:
            raise KeyboardInterrupt
        rng = np.random.default_rng(step)
        steps = rng.integers(0, 3, (run.batch_size, run.seq_len + 1))
        batch = np.cumsum(steps, axis=1).astype(np.int32) % spec.vocab
        index, count = self.share
        return batch[index * run.batch_size // count:(index + 1) * run.batch_size // count]

def curve(run, mesh):
    state, hyper, losses = start_state(run, mesh), hyper_of(run.optim, run.num_steps), []
    if mesh is not None:
        hyper = jax.device_put(hyper, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    rows = Rows(feed_share(mesh) if mesh is not None else (0, 1))
    for step in range(20):
        tokens = rows[step] if mesh is None else place_rows(rows[step], mesh, run.batch_size)
        state, metrics = train_step(state, tokens, hyper, mesh)
        losses.append(float(metrics.loss))
    return losses

def equal(a, b):
    return all(bool((np.asarray(x) == np.asarray(y)).all()) for x, y in
               zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
"""

EIGHT = """
from pathlib import Path
folder, out = Path(sys.argv[1]), {}
fsdp, tensor = make_mesh(data=2, fsdp=4), make_mesh(data=2, fsdp=2, tensor=2)
out["one"], out["fsdp"], out["tensor"] = (curve(run, m) for m in (None, fsdp, tensor))
out["muon"], out["muon parts tensor"] = curve(muon, None), curve(muon_parts, tensor)
state = start_state(run, fsdp)
out["same start"] = equal(state, start_state(run))
table = layout(state, fsdp)
held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
out["held"] = [held, int(table.device_bytes.sum()), int(table.num_bytes.sum())]

soon = CheckpointPolicy(every_s=0.0, asynchronous=True)
alone, _ = train(run, Rows(), folder / "alone", mesh=fsdp)
rows = {"alone": read_metrics(folder / "alone")}
for name, mesh in (("again", fsdp), ("one device", None)):
    try:
        train(run, Rows(cut_at=30), folder / name, mesh=fsdp, checkpoints=soon)
    except KeyboardInterrupt:
        pass
    resumed, _ = train(run, Rows(), folder / name, mesh=mesh, checkpoints=soon)
    out["bits " + name] = equal(alone, resumed)
    rows[name] = read_metrics(folder / name)
train(run, Rows(), folder / "single")
rows["single"] = read_metrics(folder / "single")
out["rows"] = rows
print(json.dumps(out))
"""

PROCESS = """
from pathlib import Path
from relscale.sweep.multihost import join_processes
folder = Path(sys.argv[1])
index, count = join_processes()  # Slurm's variables say who is who
assert (index, count) == join_processes()  # asking again is no error
mesh = make_mesh(data=2, fsdp=2)
out = {"share": feed_share(mesh), "curve": curve(run, mesh)}
asked = []
def stop_once():  # one process alone is asked to end, and all do
    asked.append(1)
    return index == 1 and len(asked) == 1
rows = Rows(feed_share(mesh))
try:
    train(run, rows, folder, mesh=mesh, should_stop=stop_once)
except Preempted as error:
    out["preempted"] = str(error)
seen = []
train(run, rows, folder, mesh=mesh, checkpoints=CheckpointPolicy(0.0, asynchronous=True), callbacks=[seen.append])
out["seen"] = [row["step"] for row in seen]
out["rows"] = read_metrics(folder)
print(json.dumps(out))
"""


def start(code: str, devices: int, *arguments: object, **variables: str) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, "-c", COMMON + code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return answer(start(EIGHT, 8, tmp_path_factory.mktemp("eight")))


def losses(rows: list[dict]) -> list[float]:
    return [row["loss_nats"] for row in rows]


def test_matrices_that_widen_are_cut_by_outputs_and_those_that_narrow_by_inputs():
    """Then attention and MLP need one sum over `tensor` each; the other way round is right too, and slower."""
    import jax
    from jax.sharding import Mesh, PartitionSpec

    from relscale.model.mesh import AXES, leaf_spec

    devices = np.array(jax.devices()[:1] * 4).reshape(1, 2, 2)  # nothing is computed on them
    mesh = Mesh(devices, AXES)
    for name in ("query", "key", "value", "gate", "up"):
        assert leaf_spec(f".{name}", (3, 8, 8), mesh) == PartitionSpec(None, "fsdp", "tensor")
    for name in ("output", "down"):
        assert leaf_spec(f".{name}", (3, 8, 8), mesh) == PartitionSpec(None, "tensor", "fsdp")


@pytest.mark.parametrize("way", ["fsdp", "tensor"])
def test_a_mesh_gives_the_curve_of_one_device(eight, way):
    assert eight["one"][-1] < eight["one"][0] - 0.1  # the run learns, so weights matter
    np.testing.assert_allclose(eight[way], eight["one"], rtol=1e-5)


def test_muon_in_parts_on_a_mesh_gives_the_curve_of_one_device_and_whole_batches(eight):
    np.testing.assert_allclose(eight["muon parts tensor"], eight["muon"], rtol=1e-5)


def test_initial_weights_do_not_depend_on_the_mesh(eight):
    assert eight["same start"]


def test_each_device_holds_its_part_and_no_more(eight):
    """Two copies of everything (data=2) in four parts: a quarter, but for the norms and the count."""
    held, planned, whole = eight["held"]
    assert held == planned
    assert whole / 4 < held < 1.05 * whole / 4


def test_a_run_cut_off_on_a_mesh_goes_on_to_the_bit(eight):
    assert eight["bits again"]
    assert eight["rows"]["again"] == eight["rows"]["alone"]


def test_a_run_goes_on_on_another_mesh(eight):
    single = losses(eight["rows"]["single"])
    np.testing.assert_allclose(losses(eight["rows"]["alone"]), single, rtol=1e-5)
    np.testing.assert_allclose(losses(eight["rows"]["one device"]), single, rtol=1e-5)


def as_slurm(index: int, port: int) -> dict[str, str]:
    """What `srun --ntasks 2` tells a process; JAX's port is the job's number modulo 4096, above 61440."""
    values = {"JOB_ID": port - 61440, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2}
    values |= {"PROCID": index, "LOCALID": 0, "STEP_NUM_NODES": 1}
    return {f"SLURM_{name}": str(value) for name, value in values.items()}


def free_port(low: int = 61440) -> int:
    for port in range(low, 65536):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    pytest.skip("no free port")


def test_two_processes_give_the_curve_of_one_device(eight, tmp_path):
    port = free_port()
    processes = [start(PROCESS, 2, tmp_path / "run", **as_slurm(i, port)) for i in range(2)]
    try:
        first, second = map(answer, processes)
    finally:
        for process in processes:
            process.kill()
    assert (first["share"], second["share"]) == ([0, 2], [1, 2])
    np.testing.assert_allclose(first["curve"], eight["one"], rtol=1e-5)
    assert first["curve"] == second["curve"]
    assert "ended at step 20 of 40" in first["preempted"] == second["preempted"]
    assert [row["step"] for row in first["rows"]] == [20, 40]
    np.testing.assert_allclose(losses(first["rows"]), losses(eight["rows"]["single"]), rtol=1e-5)
    assert (first["seen"], second["seen"]) == ([40], [])  # callbacks: in the first process alone


GIVEN = """
from relscale.sweep.multihost import join_processes
join_processes(coordinator=sys.argv[1], num_processes=2, process_index=int(sys.argv[2]), timeout_s=60)
print(json.dumps(curve(run, make_mesh(data=2, fsdp=2))))
"""


@pytest.mark.long
def test_processes_that_are_told_who_is_who(eight):
    address = f"127.0.0.1:{free_port(20000)}"
    processes = [start(GIVEN, 2, address, i) for i in range(2)]
    try:
        first, second = map(answer, processes)
    finally:
        for process in processes:
            process.kill()
    np.testing.assert_allclose(first, eight["one"], rtol=1e-5)
    assert first == second


def curve_here() -> list[float]:
    """What each process of Ray does."""
    names: dict = {}
    exec(COMMON, names)
    return names["curve"](names["run"], names["make_mesh"](data=2, fsdp=2))


def second_dies():
    import jax

    if jax.process_index() == 1:
        os._exit(1)
    time.sleep(100)


@pytest.mark.long
def test_processes_that_ray_starts_give_the_curve_of_one_device(eight):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from relscale.sweep.multihost import on_hosts
    from relscale.sweep.ray_dask import RayOptions, ray_cluster

    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    }
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ray_cluster(2, environment, RayOptions()))
        except UserError as error:
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray gives its own processes 30 s to start, and this machine is busy")
        first, second = on_hosts(curve_here, num_hosts=2, environment=environment)
        np.testing.assert_allclose(first, eight["one"], rtol=1e-5)
        assert first == second
        start = time.monotonic()
        with pytest.raises(
            WorkerLost, match="host"
        ):  # and those that wait for it are not waited for
            on_hosts(second_dies, num_hosts=2, environment=environment)
        assert time.monotonic() - start < 60
