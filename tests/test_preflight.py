"""Plans before accelerators: targets, the text of a compiled step, and the fewest devices that hold a shape."""

import importlib.util
import json
import subprocess
import sys

import pandas as pd
import pytest

pytest.importorskip("jax", reason="preflight needs the extra `train`")

from relscale.core import UserError
from relscale.model import compiled
from relscale.model import preflight as module
from relscale.model.compiled import find_target, kept_facts, read_collectives, sent_bytes
from relscale.model.preflight import preflight_plan, weak_scaling
from relscale.plan.spec import ModelSpec, OptimSpec, RunSpec

SPEC = ModelSpec(
    hidden=256, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=128, mlp=512, vocab=512
)
RUN = RunSpec("tiny", "all", (("all", 1.0),), 1e12, SPEC, OptimSpec(1e-3), 512, 8, 10)


class Needs:
    """Answers as a compiler would for a step of 40 GiB that divides among devices; counts what it is asked."""

    asked = 0

    def __init__(self, maker):
        pass

    def ask(self, task):
        Needs.asked += 1
        sides = task["sides"]
        memory = 40 * 2**30 / (sides.get("fsdp", 1) * sides["tensor"])
        chip = find_target(task["target"]).chip
        return {"memory_bytes": memory, "fits": memory <= chip.memory_bytes, "collectives": []}

    def close(self):
        pass


@pytest.mark.parametrize(
    ("on", "devices"), [("v5e:4x4", 4), ("v5p:2x2x1", 1), ("h100x8", 1), ("v5e:1x2", None)]
)
def test_the_fewest_devices_that_hold_a_shape(on, devices, monkeypatch):
    """40 GiB: three chips of 16 GiB, hence four; one of 80 GB or of 95 GiB; two of 16 GiB do not hold it."""
    monkeypatch.setattr(module, "Compiler", Needs)
    found = preflight_plan([RUN], on)
    assert found.rows["devices"].tolist() == [devices]
    assert ("0 of 1 runs" in found.sentence()) == (devices is None)


def test_what_was_compiled_is_kept_and_a_torn_line_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Compiler", Needs)
    Needs.asked = 0
    preflight_plan([RUN], "v5e:4x4", folder=tmp_path)
    first = Needs.asked
    preflight_plan([RUN], "v5e:4x4", folder=tmp_path)
    assert Needs.asked == first == 3  # 1, 2 and 4 devices
    path = tmp_path / "compiled.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])
    for _ in range(2):  # and the row that stands behind the torn one is whole
        preflight_plan([RUN], "v5e:4x4", folder=tmp_path)
        assert Needs.asked == first + 1


def test_a_compiler_that_dies_is_told_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Needs, "ask", lambda self, task: {"error": "the compiler died (exit code -6)"}
    )
    monkeypatch.setattr(module, "Compiler", Needs)
    found = preflight_plan([RUN], "v5e:2x2", folder=tmp_path)
    assert "1 shapes failed: the compiler died" in found.sentence()
    versions = json.loads((tmp_path / "compiled.jsonl").read_text())["versions"]
    assert not kept_facts(tmp_path, versions)[0]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("%x = bf16[4,8]{1,0} all-gather(%a), replica_groups={{0,1},{2,3}}", ["all-gather", 2, 64]),
        ("%x = f32[2]{0} reduce-scatter(%a), replica_groups=[2,4]<=[8]", ["reduce-scatter", 4, 32]),
        ("%x = (f32[4]{0}, /*index=1*/f32[2]{0}) all-reduce(%a), replica_groups=[1,4]<=[4]", ["all-reduce", 4, 24]),
        ("%x = (f32[1]{0}, f32[4]{0}) all-gather-start(%a), replica_groups=[1,4]<=[4]", ["all-gather", 4, 16]),
        ("%x = ((f32[1]{0}, bf16[2]{0}), (f32[4]{0}, bf16[8]{0})) all-gather-start(%a, %b), replica_groups=[1,4]<=[4]", ["all-gather", 4, 32]),
        ("%x = (f32[4]{0}, f32[2]{0}) all-reduce-start(%a, %b), replica_groups=[1,4]<=[4]", ["all-reduce", 4, 24]),
        ("%x = ((f32[8]{0}), f32[2]{0}) reduce-scatter-start(%a), replica_groups=[1,4]<=[4]", ["reduce-scatter", 4, 32]),
        ("%x = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%a)", ["collective-permute", 0, 16]),
        ("%x = f32[3]{0} all-reduce(%a), replica_groups=mesh['a'=2,'b'=3] {'a','b'}", ["all-reduce", 6, 12]),
        ("%x = f32[3]{0} all-gather-done(%a)", None),
    ],
)  # fmt: skip
def test_collectives_of_every_form(line, row):
    """Bytes of the whole array at each call: bfloat16 takes two a number; an asynchronous pair counts once."""
    found = read_collectives("ENTRY %main (p: f32[8]) -> f32[8] {\n  " + line + "\n}\n")
    assert found[["kind", "group", "num_bytes"]].values.tolist() == ([] if row is None else [row])


def test_what_leaves_a_device_is_what_a_ring_sends():
    """Bytes by counting: each of n devices passes on n - 1 pieces of the n that an array is cut into."""
    for n in (2, 4, 16):
        array = 64 * n
        pieces = sum(array // n for _ in range(n - 1))
        frame = pd.DataFrame(
            {
                "kind": ["all-gather", "reduce-scatter", "all-reduce", "collective-permute"],
                "group": [n, n, 0, n],
                "total_bytes": [array] * 4,
            }
        )
        assert sent_bytes(frame, n).tolist() == [pieces, pieces, 2 * pieces, array]


def test_weak_scaling_asks_each_target_once_and_keeps_rows_on_a_chip(monkeypatch, tmp_path):
    class Gathers(Needs):
        def ask(self, task):
            n = find_target(task["target"]).num_devices
            assert task["shape"]["batch_size"] == 3 * n and n in task["sides"].values()
            Needs.asked += 1
            if "data" in task["sides"]:
                return {"memory_bytes": 2**40, "fits": False}  # too large: the text was never made
            found = [{"kind": "all-gather", "group": n, "total_bytes": 100.0}]
            return {"memory_bytes": 1, "sent_bytes": 100 * (n - 1) / n, "collectives": found}

    monkeypatch.setattr(module, "Compiler", Gathers)
    Needs.asked = 0
    run = RunSpec("weak", "all", (("all", 1.0),), 1e12, SPEC, OptimSpec(1e-3), 512, 3, 10)
    for _ in range(2):
        found = weak_scaling(run, ("v5e:2x2", "v5e:4x4"), folder=tmp_path)
    assert Needs.asked == 4
    assert found.summary()["fsdp"].tolist() == [75e-6, 93.75e-6]
    rows = found.rows.set_index(["sharding", "devices"])
    assert rows.loc["data", "gathered_bytes"].isna().all()  # unknown is not nothing
    assert rows.loc[("fsdp", 16), "gathered_bytes"] == 93.75
    assert "fsdp: 0 MB a chip and step on 4 chips, 0 on 16" in found.sentence()
    with pytest.raises(UserError, match="name at least one"):
        weak_scaling(run, ())


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs the extra 'tpu': pip install 'relscale\[train,tpu\]'"
    ):
        preflight_plan([RUN], "v5e:2x2")


def test_a_compiler_that_does_not_start_or_dies_is_one_line(monkeypatch):
    """The worker for real, without what it needs, and one that aborts."""
    task = {"target": "v5e:2x2", "shape": compiled.shape_of(RUN), "sides": {"fsdp": 1}}
    monkeypatch.setattr(compiled, "has_compiler", lambda maker: True)
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        worker = compiled.Compiler("cuda")
        said = worker.ask(task | {"target": "h100x1"})
        worker.close()
        assert set(said) == {"error"} and "\n" not in said["error"]

    def aborts(self):
        code = [sys.executable, "-c", "import os; os.abort()"]
        self._process = subprocess.Popen(code, text=True, stdin=-1, stdout=-1)

    monkeypatch.setattr(compiled.Compiler, "_start", aborts)
    said = compiled.Compiler("tpu").ask(task)
    assert (
        said["error"] == "the compiler died (exit code -6): try fewer devices, or a newer version"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra `tpu` is not installed"
)
def test_the_compiler_of_tpus_takes_a_step():
    """Parameters, gradients' moments and tokens of 1.4 million parameters are the arguments: 12 bytes each and some."""
    found = preflight_plan([RUN], "v5e:2x2", tensor=2)
    row = found.rows.iloc[0]
    assert row["error"] is None and row["devices"] == 2
    assert 6 * row["num_params"] < row["state_bytes"] < 6.2 * row["num_params"]
    assert row["collective_bytes"] > 0


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="the extra `cuda` is not installed",
)
def test_the_compiler_of_nvidia_takes_a_step():
    """cuDNN's attention is in the text, and the state is divided between two."""
    found = preflight_plan([RUN], "h100x2", tensor=2)
    row = found.rows.iloc[0]
    assert row["error"] is None and (row["devices"], row["kernel"]) == (2, "cudnn")
    assert 6 * row["num_params"] < row["state_bytes"] < 6.2 * row["num_params"]
    assert row["sent_bytes"] > 0


@pytest.mark.parametrize(("share", "told"), [(0.5, True), (3.0, False)])
def test_seconds_that_beat_the_peak_are_no_bound(share, told):
    """A loop whose turns are not stated counts once, and gives seconds in which no chip could do the work."""
    from relscale.plan.recipes import SMALL, plan_isoflop

    runs, target = (
        list(plan_isoflop([2.4e10], SMALL, min_sizes=1).runs)[:1],
        find_target("v5p:2x2x1"),
    )
    whole = module._row(0, runs, target, 1, {"seconds": 1.0})["utilisation_bound"]
    row = module._row(0, runs, target, 1, {"seconds": whole / share})
    assert (row["seconds"] is not None) is told
    assert (row["utilisation_bound"] == pytest.approx(share)) is told


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm.", 18.5),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (99.02G) exceeds available HBM (95.74G).", 99.02),
        ("RESOURCE_EXHAUSTED: out of memory, in words of another version", None),
    ],
)  # fmt: skip
def test_a_compiler_that_lacks_memory_says_that_a_step_does_not_fit(words, wanted, monkeypatch):
    """In whatever words: a step that does not fit on one device is then tried on two."""
    from relscale.model import compiled

    def refuse(*_, **__):
        raise RuntimeError(words)

    monkeypatch.setattr(compiled, "compile_step", refuse)
    task = {"target": "v5p:2x2x1", "sides": {"fsdp": 1, "tensor": 1}, "shape": {}}
    told = compiled._answer(task, {find_target("v5p:2x2x1").name: []})
    assert told["fits"] is False and "error" not in told
    memory = told.get("memory_bytes")
    assert memory == (wanted if wanted is None else pytest.approx(wanted * 2**30, abs=1))
