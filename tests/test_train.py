"""Faults of a training run: killed, asked to end, its checkpoint damaged, its loss leaping."""

import dataclasses
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="training needs the extra `train`")

from relscale.core import Preempted, RunFailed, UserError  # noqa: E402
from relscale.model import training  # noqa: E402
from relscale.model.checkpoints import CheckpointPolicy, Checkpoints, checksums  # noqa: E402
from relscale.model.training import SpikeRule, loss_and_grads, read_metrics, start_state, train  # noqa: E402
from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, RunSpec  # noqa: E402

SPEC = ModelSpec(hidden=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp=32, vocab=64)
RUN = RunSpec("r", "all", (("a", 1.0),), 1e9, SPEC, OptimSpec(0.003), 16, 8, 100)
SOON = CheckpointPolicy(every_s=0.0)
LATER = CheckpointPolicy(every_s=0.0, asynchronous=True)


class Rows:
    """Rising sequences by step; at one step something happens first."""

    def __init__(self, at=None, then=None, noise_from=None):
        self.at, self.then, self.noise_from = at, then, noise_from

    def __getitem__(self, step):
        if step == self.at:
            self.then()
        rng = np.random.default_rng(step)
        if self.noise_from is not None and step >= self.noise_from:
            return rng.integers(0, SPEC.vocab, (RUN.batch_size, RUN.seq_len + 1)).astype(np.int32)
        steps = rng.integers(0, 3, (RUN.batch_size, RUN.seq_len + 1))
        return np.cumsum(steps, axis=1).astype(np.int32) % SPEC.vocab


# Orbax leaves reads unfinished when a file turns out to be broken, and Python says so when it collects them.
broken_reads = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)


@pytest.fixture
def collected():
    yield
    gc.collect()


def cut():
    raise KeyboardInterrupt


def digest(model) -> str:
    return hashlib.sha256(
        b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(model))
    ).hexdigest()


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Digest of the weights, and rows, of a run that was left alone."""
    folder = tmp_path_factory.mktemp("alone")
    model, _ = train(RUN, Rows(), folder)
    return digest(model), read_metrics(folder)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_add_up_to_the_batch(parts):
    """Float32 sums in another order: 1e-6 of the gradient's norm; a part left out moves it by 10% and more."""
    model, tokens = start_state(RUN).model, Rows()[0]
    in_parts = dataclasses.replace(model, compute=ComputeSpec(accumulate=parts))
    (loss, grads), (part_loss, part_grads) = (
        jax.jit(loss_and_grads)(m, tokens) for m in (model, in_parts)
    )
    whole, ours = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (grads, part_grads)
    )
    assert float(part_loss) == pytest.approx(float(loss), rel=1e-6)
    assert np.linalg.norm(ours - whole) < 1e-6 * np.linalg.norm(whole)


@pytest.mark.parametrize("policy", [SOON, LATER], ids=["sync", "async"])
def test_a_run_cut_off_goes_on_to_the_bit(policy, alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(RUN, Rows(70, cut), tmp_path, checkpoints=policy)
    assert Checkpoints(tmp_path / "checkpoints", policy).steps() == [40, 60]
    model, _ = train(RUN, Rows(), tmp_path, checkpoints=policy)
    assert (digest(model), read_metrics(tmp_path)) == alone
    assert not (tmp_path / "checkpoints").exists()


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_train import LATER, RUN, Rows, train
train(RUN, Rows(75, lambda: time.sleep(600)), Path(sys.argv[2]), checkpoints=LATER)
"""


def test_a_run_killed_while_it_writes_goes_on_to_the_bit(alone, tmp_path):
    """kill -9 as soon as the third row is there: its checkpoint may be on the way to the disk."""
    here = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", KILLED, here, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(read_metrics(tmp_path)) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()
    model, _ = train(RUN, Rows(), tmp_path)
    assert (digest(model), read_metrics(tmp_path)) == alone


def test_sigterm_ends_a_run_at_a_logged_step(alone, tmp_path):
    with pytest.raises(Preempted, match="ended at step 60 of 100, checkpoint written"):
        train(RUN, Rows(50, lambda: os.kill(os.getpid(), signal.SIGTERM)), tmp_path)
    assert (status(tmp_path)["status"], status(tmp_path)["step"]) == ("preempted", 60)
    model, _ = train(RUN, Rows(), tmp_path)
    assert (digest(model), read_metrics(tmp_path)) == alone
    assert status(tmp_path)["status"] == "finished"


def arrays(folder: Path) -> list[Path]:
    """All files that hold values: the largest alone may be one that nothing refers to any more."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d")


def truncate(folder: Path) -> None:
    for file in arrays(folder):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(folder: Path) -> None:
    for file in arrays(folder):
        content = bytearray(file.read_bytes())
        for i in range(16):
            content[(2 * i + 1) * len(content) // 32] ^= 1
        file.write_bytes(content)


def cut_metadata(folder: Path) -> None:
    for file in folder.rglob("_METADATA"):
        file.write_bytes(file.read_bytes()[:-20])


@broken_reads
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("damage", [truncate, flip, cut_metadata])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(damage, alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(RUN, Rows(70, cut), tmp_path, checkpoints=SOON)
    damage(tmp_path / "checkpoints" / "60")
    seen = []
    with pytest.warns(UserWarning, match=r"checkpoints/60: damaged .*resuming from step 40"):
        model, _ = train(RUN, Rows(), tmp_path, callbacks=[seen.append])
    assert seen[0]["step"] == 60
    assert (digest(model), read_metrics(tmp_path)) == alone


@broken_reads
@pytest.mark.usefixtures("collected")
def test_no_whole_checkpoint_is_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(RUN, Rows(70, cut), tmp_path, checkpoints=SOON)
    for step in ("40", "60"):
        truncate(tmp_path / "checkpoints" / step)
    with pytest.raises(UserError, match="no checkpoint of 60, 40 can be read"):
        train(RUN, Rows(), tmp_path)


def test_checksums_see_one_bit_and_many_signs():
    """The sign is the top bit, and 2^31 times an even number is 0 modulo 2^32: sums of bare words would not see it."""
    array = jax.random.normal(jax.random.key(0), (4, 8))
    one = np.array(array)
    one.view(np.uint32)[3, 7] ^= 1
    swapped = array.at[0].set(array[1]).at[1].set(array[0])
    seen = [int(checksums([a])[0]) for a in (array, one, -array, swapped, array.T.reshape(4, 8))]
    assert len(set(seen)) == len(seen)


def test_other_bits_that_any_reader_takes_are_found(tmp_path):
    """The checksum is ours: a checkpoint written with a weight changed after its sum was taken."""
    keeper = Checkpoints(tmp_path, SOON)
    leaves = {"['w']": jax.numpy.ones(8), "checksums": jax.numpy.zeros(1, jax.numpy.uint32)}
    keeper._manager.save(1, args=keeper._ocp.args.StandardSave(leaves))
    with pytest.raises(UserError, match="is not what was written"):
        keeper.load({"w": jax.numpy.zeros(8)})


def test_checkpoints_of_a_period_outlive_the_run(alone, tmp_path):
    policy = CheckpointPolicy(every_s=0.0, keep=1, keep_every=40)
    model, _ = train(RUN, Rows(), tmp_path, checkpoints=policy)
    keeper = Checkpoints(tmp_path / "checkpoints", policy)
    assert keeper.steps() == [40, 80]
    assert digest(model) == alone[0]
    assert keeper.load(start_state(RUN))[0] == 80
    with pytest.raises(UserError, match="keep_every=30: use a multiple of the 20"):
        train(RUN, Rows(), tmp_path / "b", checkpoints=CheckpointPolicy(keep_every=30))


LONG = dataclasses.replace(RUN, num_steps=500)


def test_a_loss_that_leaps_and_stays_ends_the_run(tmp_path):
    """From step 300 on the text is noise: the loss rises over the logarithm of the vocabulary and stays."""
    with pytest.raises(
        RunFailed, match=r"leapt from .* after step 300 of 500.*step 300 is kept"
    ) as e:
        train(LONG, Rows(noise_from=300), tmp_path, checkpoints=SOON)
    rows = read_metrics(tmp_path)
    assert rows[-1]["step"] == 340  # two rows above the limit; the third ended the run
    assert status(tmp_path) == {"status": "failed", "step": 360, "reason": str(e.value)}
    with pytest.raises(RunFailed, match="after step 300"):  # tried again, it ends the same way
        train(LONG, Rows(noise_from=300), tmp_path, checkpoints=SOON)
    train(LONG, Rows(noise_from=300), tmp_path, spike=None)
    assert read_metrics(tmp_path)[-1]["step"] == 500


def test_the_loss_of_a_run_is_that_of_its_last_tenth(tmp_path):
    """Rows that end after nine tenths of the steps, each by its number of steps; one at nine tenths is out."""
    rows = [{"step": s, "num_steps": 20, "loss_nats": float(s)} for s in range(20, 201, 20)]
    for num_steps, more, loss in ((200, [], 200), (210, [(210, 10)], (20 * 200 + 10 * 210) / 30)):
        last = [{"step": s, "num_steps": n, "loss_nats": float(s)} for s, n in more]
        text = "".join(json.dumps(row) + "\n" for row in rows + last)
        (tmp_path / "metrics.jsonl").write_text(text)
        run = dataclasses.replace(RUN, num_steps=num_steps)
        assert training._summary(run, tmp_path) == {"train_loss_nats": pytest.approx(loss)}


def test_a_healthy_run_passes(tmp_path):
    """Also at eight times the learning rate, whose loss is rougher."""
    rough = dataclasses.replace(LONG, optim=OptimSpec(0.024))
    for i, run in enumerate((LONG, rough)):
        train(run, Rows(), tmp_path / str(i))
        losses = [row["loss_nats"] for row in read_metrics(tmp_path / str(i))]
        assert not any(SpikeRule().streak(losses[:n]) for n in range(1, len(losses) + 1))


def test_a_loss_that_is_not_finite_names_its_step(tmp_path):
    wild = dataclasses.replace(RUN, optim=OptimSpec(1e38, warmup=0.0))
    with pytest.raises(RunFailed, match=r"not finite at step \d+ of 100;.*no checkpoint had been"):
        train(wild, Rows(), tmp_path)
    assert status(tmp_path)["status"] == "failed"


def test_a_piece_of_the_loss_is_what_one_device_holds():
    """Devices that share the batch share the piece, and those that share a matrix do not; an accelerator takes four times as much."""
    import inspect
    from types import SimpleNamespace

    from relscale.model import training
    from relscale.model.loss import LOGITS_AT_ONCE

    logits_at_once = inspect.unwrap(training.logits_at_once)  # a mesh of devices that are not here

    def mesh(platform, **sides):
        device = SimpleNamespace(platform=platform)
        sides = {"data": 1, "fsdp": 1, "tensor": 1} | sides
        return SimpleNamespace(devices=np.array([device]), shape=sides)

    assert logits_at_once(None) == LOGITS_AT_ONCE == logits_at_once(mesh("cpu", tensor=4))
    assert logits_at_once(mesh("cpu", data=2, fsdp=4)) == 8 * LOGITS_AT_ONCE
    for platform in ("tpu", "gpu", "cuda"):
        assert logits_at_once(mesh(platform, fsdp=2, tensor=2)) == 2 * 4 * LOGITS_AT_ONCE
