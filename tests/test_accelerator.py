"""`make accelerator` on a CPU: every part in small, so that none is broken when a card is at last there."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="the benchmark of accelerators needs the extra `train`")

import jax

from relscale.model import attention
from relscale.plan.chips import CHIPS

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/accelerator.py"
found = importlib.util.spec_from_file_location("accelerator", SCRIPT)
accelerator = importlib.util.module_from_spec(found)
found.loader.exec_module(accelerator)

CARD = {
    "kind": "cpu", "platform": "cpu", "count": 1, "jax": jax.__version__, "memory_bytes": 2e9,
    "peak": {"bfloat16": None, "float32": 1e11},
}  # fmt: skip


def rows_of(part, seconds=1e9):
    return list(accelerator.PARTS[part](CARD, True, accelerator.Clock(seconds)))


def command(tmp_path, *arguments):
    """The whole command, each part a process of its own."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--out", tmp_path, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    tables = list(Path(tmp_path).glob("*.csv"))
    table = list(csv.DictReader(tables[0].open())) if tables else []
    return done, table


def test_numbers_agree_with_float64():
    """Float32 rounding on a CPU; one wrong mask or sign makes an error of 0.1 and more."""
    rows = rows_of("numbers")
    cases = {row["case"] for row in rows}
    assert {f"optimizer {name}" for name in accelerator.OPTIMIZERS} < cases
    assert {"attention plain, float32", "attention splash, float32", "decoder"} < cases
    assert [row for row in rows if not row["passed"]] == []


def test_a_wrong_kernel_is_seen(monkeypatch):
    """Attention that sees one token too many."""

    def sees_ahead(query, key, value):
        return attention.plain_attention(query, *(jax.numpy.roll(x, -1, axis=1) for x in (key, value)))  # fmt: skip

    monkeypatch.setattr(accelerator, "attention_kernels", lambda _: [("bad", "float32", sees_ahead)])  # fmt: skip
    (row,) = accelerator.check_attention(CARD, True, accelerator.Clock(1e9))
    assert row["passed"] is False and row["value"] > 0.1


def test_a_wrong_optimizer_is_seen(monkeypatch):
    """A decay that float64 has and the device has not."""
    path = accelerator.optimizer_path

    def forgets(spec, num_steps, start, gradients):
        if not jax.config.jax_enable_x64:
            spec = accelerator_spec(spec, weight_decay=0.0)
        return path(spec, num_steps, start, gradients)

    def accelerator_spec(spec, **changes):
        import dataclasses

        return dataclasses.replace(spec, **changes)

    monkeypatch.setattr(accelerator, "optimizer_path", forgets)
    monkeypatch.setattr(accelerator, "OPTIMIZERS", {"c-adamc": {}})
    (row,) = accelerator.check_optimizers(CARD, True, accelerator.Clock(1e9))
    assert row["passed"] is False


def test_steps_are_measured():
    """Rates, shares of the peak and their ranges at each shape; the loss of one batch falls."""
    rows = rows_of("steps")
    assert [row for row in rows if row["passed"] is False] == []
    rates = [row for row in rows if row["measure"] == "tokens_per_s"]
    assert len(rates) == 2 and all(0 < row["low"] <= row["value"] <= row["high"] for row in rates)
    shares = {row["case"]: row["value"] for row in rows if row["measure"] == "utilisation"}
    assert set(shares) == {"8 x 1", "16 x 1"} and all(0 < share < 1 for share in shares.values())


def test_attention_alone_is_measured():
    rows = rows_of("attention")
    assert [row for row in rows if row["passed"] is False] == []
    times = [row for row in rows if row["measure"] == "time"]
    assert {row["case"] for row in times} > {"strips, float32", "blocks, bfloat16"}
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in times)


def test_scoring_is_measured():
    """What is shared is read once, and a second pass has the same numbers."""
    rows = rows_of("scoring")
    assert [row for row in rows if row["passed"] is False] == []
    read = {row["measure"]: row["value"] for row in rows}
    assert read["tokens_asked_per_s"] > read["tokens_read_per_s"] > 0
    assert read["difference of two passes"] == 0


def test_the_command_writes_one_table_with_the_cards_name(tmp_path):
    """A run resumed in a new process has the same bits; PyTorch's part runs here, or says that it is not there."""
    done, table = command(tmp_path, "--parts", "resume,torch", "--minutes", "80")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["card"] for row in table} == {"cpu"} and (tmp_path / "cpu.csv").exists()
    same = [row for row in table if row["measure"] == "weights are the same bits"]
    assert [row["passed"] for row in same] == ["True"]
    torch = [row for row in table if row["part"] == "torch"]
    if importlib.util.find_spec("torch") is None:
        assert torch[0]["measure"] == "absent" and "--torch-python" in torch[0]["note"]


def alive(pid: int) -> bool:
    """Whether a process is there, and not only waits to be asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_part_ends_when_its_seconds_are_over(tmp_path, monkeypatch):
    """What it wrote before is kept, and the row says so; nothing that it started is left."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import json, sys, subprocess, time\n"
        "rows = sys.argv[sys.argv.index('--rows') + 1]\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "open(rows, 'w').write(json.dumps({'part': 'steps'}) + '\\n{\"torn')\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(accelerator, "__file__", str(slow))
    options = accelerator.argparse.Namespace(torch_python=sys.executable, tiny=True)
    rows = accelerator.run_part("steps", 2.0, options, {})
    assert rows[0] == {"part": "steps"} and rows[1]["note"] == "ended after its 2 s"
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10  # a killed process is still seen until the kernel has taken it down
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child)


def test_a_part_that_dies_is_a_row(tmp_path, monkeypatch):
    dies = tmp_path / "dies.py"
    dies.write_text("raise SystemExit('no card left')\n")
    monkeypatch.setattr(accelerator, "__file__", str(dies))
    options = accelerator.argparse.Namespace(torch_python=sys.executable, tiny=True)
    (row,) = accelerator.run_part("steps", 10.0, options, {})
    assert row["note"] == "died (exit code 1): no card left" and row["passed"] is False


def test_without_a_card_it_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 1 and "JAX sees a CPU alone" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"), ("NVIDIA B200", "b200"), ("NVIDIA L40S", "l40s"),
        ("TPU v5 lite", "v5e"), ("TPU v5p", "v5p"), ("TPU v5", "v5p"), ("TPU v4", "v4"), ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 PCIe", None), ("NVIDIA GeForce RTX 4090", None),
    ],
)  # fmt: skip
def test_cards_by_the_names_that_they_call_themselves(kind, key):
    """An unknown card has no peak, and so no utilisation: none is made up."""
    assert accelerator.chip_of(kind, "gpu") is (CHIPS[key] if key else None)


def test_budgets_leave_room_in_eight_minutes():
    assert sum(accelerator.BUDGETS_S.values()) <= 480
    assert set(accelerator.BUDGETS_S) == set(accelerator.PARTS)


def test_shapes_are_those_of_the_released_suite_and_of_the_card():
    """80 GB hold four sequences of each; 16 GB no step of the largest with all activations kept."""
    card = CARD | {"platform": "gpu", "memory_bytes": 80e9}
    cases = accelerator.step_cases(card, False)
    assert [case["case"] for case in cases] == ["512 x 6", "1024 x 11", "1536 x 16", "2048 x 21"]
    assert all(case["rows"] == 4 and case["dtype"] == "bfloat16" for case in cases)
    small = accelerator.step_cases(card | {"memory_bytes": 16e9}, False)
    assert small[-1]["rows"] is None and small[0]["rows"] == 4
    assert json.loads(json.dumps(cases)) == cases
