"""Callbacks write what a run logged, read back by the tools' own readers."""

import contextlib
import functools
import importlib.util
import json
import pickle
import struct
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from relscale.cli import main
from relscale.core import Preempted, UserError
from relscale.model.callbacks import (
    Trackers,
    TrackerWarning,
    _harmless,
    bar_callback,
    rate_meter,
    tensorboard_callback,
    wandb_callback,
)
from relscale.plan.chips import TPU_V5P, Chip
from relscale.plan.recipes import SMALL, plan_isoflop, plan_run, run_flops, save_plan
from relscale.sweep.suite import _followed, suite_job, train_run

RUN = plan_run(1e11, 32, SMALL)
ROWS = [
    {"step": s, "num_steps": 20, "loss_nats": 4 - s / 50, "grad_norm": 1.5, "learning_rate": 0.01}
    for s in (20, 40, 60)
]
SLOW = Chip("slow", None, 1e9, 1e9, "a test")


def ticking(seconds: float):
    times = iter(np.arange(1, 100) * seconds)
    return lambda: next(times)


def test_utilisation_is_flops_over_the_peak_of_all_chips():
    measure = rate_meter(RUN, SLOW, num_chips=4, clock=ticking(2.0))
    rates = [measure(row) for row in ROWS][-1]
    expected = 10 * run_flops(RUN)["train_flops"] / RUN.num_steps  # forty steps in four seconds
    assert rates["flops_per_s"] == pytest.approx(expected, rel=1e-12)
    assert rates["utilisation"] == pytest.approx(expected / 4e9, rel=1e-12)
    assert rates["left_s"] == pytest.approx((RUN.num_steps - 60) / 10, rel=1e-12)


def test_a_chip_without_a_rate_in_the_runs_type_is_refused():
    with pytest.raises(UserError, match="no float32 rate"), bar_callback(RUN, TPU_V5P):
        pass


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboardX", reason="writes the files: extra `tensorboard`")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs `tensorboard`"
    )
    with tensorboard_callback(tmp_path, rate_meter(RUN, SLOW, clock=ticking(1.0))) as write:
        for row in ROWS:
            write(row)
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train/loss_nats")]
    np.testing.assert_allclose(seen, [(r["step"], r["loss_nats"]) for r in ROWS], rtol=1e-6)
    assert [event.step for event in events.Scalars("train/utilisation")] == [40, 60]
    with tensorboard_callback(
        tmp_path
    ) as write:  # resumed from step 20: the old 40 and 60 are void
        write(ROWS[1] | {"loss_nats": 9.0})
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train/loss_nats")]
    assert seen == [(20, pytest.approx(ROWS[0]["loss_nats"])), (40, 9.0)]


@pytest.mark.parametrize(
    ("arguments", "missing", "says"),
    [
        (["--tensorboard"], "tensorboardX", "relscale[tensorboard]"),
        (["--wandb", "p", "--wandb-offline"], "wandb", "relscale[wandb]"),
        (["--wandb", "p"], None, "wandb login"),
        (["--wandb-offline"], None, "--wandb PROJECT"),
        (["--wandb", "a/b/c"], None, "ENTITY/PROJECT"),
    ],
)
@pytest.mark.parametrize("command", ["study", "sweep", "train"])
def test_what_cannot_log_is_one_line_before_any_work(
    arguments, missing, says, command, tmp_path, monkeypatch, capsys
):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == missing else found(m))
    if says == "wandb login":
        wandb = pytest.importorskip("wandb", reason="extra `wandb` is not installed")
        monkeypatch.setattr(wandb, "login", lambda **_: False)
        monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "plan.json").write_text(save_plan(plan_isoflop((8e9,), SMALL)))
    store, plan = tmp_path / "store", str(tmp_path / "plan.json")
    to = {"study": ["--out", store], "sweep": [plan, "--store", store]}
    to["train"] = [plan, RUN.run_id, "--store", store]
    assert main([command, *map(str, to[command]), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not store.exists()


def test_the_trackers_travel_with_the_job_and_cost_no_run(tmp_path):
    """As pickle carries it to a worker, wherever that is; and with a mesh bound to it, as on many hosts."""
    card = {"corpora": [], "stores": {}, "tokenizer": ""}
    job = suite_job(tmp_path, card, trackers=Trackers("team/p", wandb_offline=True))
    there = pickle.loads(pickle.dumps(job))
    bound = functools.partial(there.train, mesh=None)
    assert bound.keywords["trackers"] == Trackers("team/p", True) and bound.func is train_run

    @contextlib.contextmanager
    def broken():
        yield lambda row: 1 / 0

    with warnings.catch_warnings(record=True) as caught, _harmless("run a: wandb", broken()) as log:
        warnings.simplefilter("always")
        for row in ROWS:
            log(row)
    assert [w.category for w in caught] == [TrackerWarning]
    with pytest.raises(KeyboardInterrupt), _harmless("run a", broken()):
        raise KeyboardInterrupt


def test_in_a_bucket_the_files_of_trackers_arrive_however_training_ends(tmp_path):
    pytest.importorskip("tensorboardX", reason="writes the files: extra `tensorboard`")
    kept = {}
    store = SimpleNamespace(local=None, url="s3://b/suite")
    store.put_file = lambda name, path: kept.update({name: path.read_bytes()})
    attempt = SimpleNamespace(run=RUN, store=store, job=SimpleNamespace(inputs={}))
    with (
        pytest.raises(Preempted),
        _followed(attempt, Trackers(tensorboard=True)) as callbacks,
    ):
        callbacks[0](ROWS[0])
        raise Preempted("asked to end")
    (name,) = kept
    assert name.startswith(f"tensorboard/{RUN.run_id}/events") and len(kept[name]) > 100


def wandb_records(content: bytes):
    """Records of a `.wandb` file: LevelDB's log format (blocks of 32 KiB) after 7 bytes of header."""
    record, at = b"", 7
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or last
            yield record
            record = b""


def test_wandb_offline_writes_what_was_logged(tmp_path):
    pytest.importorskip("wandb", reason="extra `wandb` is not installed")
    from wandb.proto import wandb_internal_pb2

    with wandb_callback(RUN, project="p", folder=tmp_path, offline=True) as write:
        for row in ROWS:
            write(row)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = []
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    assert [(r["step"], r["loss_nats"]) for r in rows] == [
        (r["step"], r["loss_nats"]) for r in ROWS
    ]
