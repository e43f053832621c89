"""Callbacks write what a run logged, read back by the tools' own readers."""

import json
import struct

import numpy as np
import pytest

from relscale.core import UserError
from relscale.model.callbacks import bar_callback, rate_meter, tensorboard_callback, wandb_callback
from relscale.plan.cost import TPU_V5P, Chip
from relscale.plan.recipes import SMALL, plan_run, run_flops

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
