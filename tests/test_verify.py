"""A store with damage in each of its parts: found, told, repaired, and swept again to the same tables.

`benchmarks/flips.py` flips bits anywhere, at length; here each kind of file is hit once.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from relscale.cli import main
from relscale.core import UserError
from relscale.sweep.driver import PROGRAM_SUMS, drop_changed_programs, note_programs
from relscale.sweep.folders import files_under, upload
from relscale.sweep.leases import take
from relscale.sweep.status import sweep_status
from relscale.sweep.store import ObjectStore, connect
from relscale.sweep.verify import repair_part, survey_store, verify_store

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import flips


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A half-finished sweep of three small runs, and what becomes of it when nothing is damaged."""
    with flips.in_process():
        yield flips.Lab(tmp_path_factory.mktemp("flips"), ("half",))


def flip(path: Path) -> None:
    """One bit in the middle of a file, or of each file of a folder: not every part of a checkpoint's files is read."""
    for file in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
        flips.flip(file, file.stat().st_size // 2, 0)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def half(lab) -> tuple[str, str]:
    """The finished run and the one that was stopped."""
    finished, stopped, _ = lab.stores["half"].runs()
    return finished, stopped


HARMS = {
    "plan": lambda s, r, h: s / "plan.json",
    "choices of the text": lambda s, r, h: s / "text.json",
    "text card": lambda s, r, h: s / "corpora.json",
    "tokenizer": lambda s, r, h: s / "tokenizer.json",
    "tokens of bible-train": lambda s, r, h: s / "tokens/bible-train/tokens/c/0",
    "tokens of licences-heldout": lambda s, r, h: s / "tokens/licences-heldout/meta.json",
    "run of RUN": lambda s, r, h: s / "runs" / r / "run.json",
    "key of RUN": lambda s, r, h: s / "runs" / r / "key",
    "result of RUN": lambda s, r, h: s / "runs" / r / "result.json",
    "files of RUN": lambda s, r, h: s / "runs" / r / "files.json",
    "score heldout of RUN": lambda s, r, h: s / "runs" / r / "scores" / "heldout.json",
    "weights of RUN": lambda s, r, h: largest(s / "runs" / r / "model"),
    "metrics of HALF": lambda s, r, h: s / "runs" / h / "metrics.jsonl",
    "checkpoints of HALF": lambda s, r, h: newest(s / "runs" / h / "checkpoints"),
}


def newest(folder: Path) -> Path:
    return max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def test_every_kind_of_damage_is_found_and_told_apart(lab):
    """One flipped bit: `verify` names the part, and no other."""
    finished, stopped = half(lab)
    for part, place in HARMS.items():
        name = part.replace("RUN", finished).replace("HALF", stopped)
        with lab.copy("half", "test") as where:
            if "HALF" not in part:
                shutil.rmtree(where / "runs" / stopped)  # its checkpoints take longest to read
            flip(place(where, finished, stopped))
            found = verify_store(where)
            bad = [p.name for p in found.parts if p.state in ("damaged", "missing")]
            assert bad == [name] and not found.whole, (part, bad)


def test_a_repair_and_the_same_sweep_mend_all_of_it(lab):
    """A part of each kind is damaged at once; in the end all is as if nothing had been."""
    finished, stopped = half(lab)
    with lab.copy("half", "test") as where:
        assert verify_store(where).whole
        for part, place in HARMS.items():
            if part not in ("plan", "text card"):  # without them less is known of the others
                flip(place(where, finished, stopped))
        assert len(verify_store(where, repair=True).repaired) >= 8
        lab.stores["half"].sweep(where)
        assert lab.at_end(where, "half", finished) and lab.at_end(where, "half", stopped)
        assert verify_store(where).whole


def test_flips_anywhere_are_never_silent(lab):
    for number in range(4):
        row = lab.one(number)
        assert row["outcome"] not in ("silent", "crash", "not mended"), row


def test_what_is_gone_and_what_nobody_knows(lab):
    """A lost file is missing, one of the user's is unknown and does no harm."""
    finished, _ = half(lab)
    with lab.copy("half", "test") as where:
        (where / "notes.txt").write_text("mine")
        (where / "logs").mkdir(exist_ok=True)
        for name in (finished, "notes"):  # what workers printed is the sweep's own, and no news
            (where / "logs" / f"{name}.txt").write_text("mine")
        found = verify_store(where)
        unknown = found.table.loc[found.table["state"] == "unknown", "part"]
        assert found.whole
        assert list(unknown) == ["other file logs/notes.txt", "other file notes.txt"]
        largest(where / "runs" / finished / "model").unlink()
        shutil.rmtree(where / "tokens" / "bible-heldout")
        found = verify_store(where)
        table = found.table.set_index("part")
        assert not found.whole
        assert table.loc["tokens of bible-heldout", "state"] == "missing"
        assert "runs that used them: 1" in table.loc["tokens of bible-heldout", "means"]
        assert table.loc[f"weights of {finished}", "state"] == "missing"
        assert found.summary().loc["tokens"].to_dict() == {"missing": 1, "unknown": 0, "whole": 3}
        with pytest.raises(UserError, match="bible-heldout: no complete token store"):
            lab.stores["half"].sweep(where)


def test_the_command_tells_by_its_exit_code(lab, capsys):
    finished, stopped = half(lab)
    with lab.copy("half", "test") as where:
        assert main(["verify", str(where)]) == 0
        assert ": whole: " in capsys.readouterr().out
        flip(where / "runs" / finished / "result.json")
        assert main(["verify", str(where)]) == 1
        out = capsys.readouterr().out
        assert (
            f"damaged: result of {finished} (runs/{finished}/result.json): " in out
            and ": not whole: " in out
        )
        assert "relscale verify" in sweep_status(where).advice()
        assert main(["verify", str(where), "--json"]) == 1
        rows = json.loads(capsys.readouterr().out)
        assert [row["part"] for row in rows if row["state"] == "damaged"] == [
            f"result of {finished}"
        ]
        take(connect(where), f"runs/{stopped}/lease.json")  # by this process, which is alive
        assert main(["verify", str(where), "--repair"]) == 2
        assert f"holds runs/{stopped}/lease.json; end it" in capsys.readouterr().err
    assert main(["verify", str(where)]) == 2  # no such folder


def test_compiled_programs_that_changed_are_dropped(tmp_path):
    """Those that no sweep noted too: what a killed process was writing may be half of one."""
    for name in ("a-cache", "b-cache", "c-cache"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    (tmp_path / "c-cache").unlink()
    known = note_programs(tmp_path, {}, settled_s=0)
    (tmp_path / "c-cache").write_bytes(b"half")
    flip(tmp_path / "b-cache")
    assert note_programs(tmp_path, known) == known  # not settled yet
    assert set(drop_changed_programs(tmp_path)) == {"a-cache"}
    assert {p.name for p in tmp_path.iterdir()} == {"a-cache", PROGRAM_SUMS}
    flip(tmp_path / PROGRAM_SUMS)
    assert not drop_changed_programs(tmp_path) and not (tmp_path / "a-cache").exists()


def test_a_bucket_is_verified_object_by_object(lab):
    """Through the client of object stores, in memory: as a sweep uploads text and runs."""
    pytest.importorskip("obstore")
    finished, stopped = half(lab)
    store = ObjectStore("memory:///store")
    with lab.copy("half", "test") as where:
        for name in ("plan.json", "text.json", "corpora.json", "tokenizer.json"):
            store.put_file(name, where / name)
        for folder in (where / "tokens").iterdir():
            upload(
                store,
                files_under(folder),
                f"tokens/{folder.name}",
                manifest=f"tokens/{folder.name}.json",
            )
        base, run = f"runs/{finished}", where / "runs" / finished
        kept = files_under(run, "model", "metrics.jsonl", "metrics.sums")
        upload(store, kept, base, manifest=f"{base}/files.json")
        for name in ("key", "run.json", "result.json"):
            store.put_file(f"{base}/{name}", run / name)
        base, run = f"runs/{stopped}", where / "runs" / stopped
        step = newest(run / "checkpoints").name
        kept = files_under(run, f"checkpoints/{step}", "metrics.jsonl", "metrics.sums")
        upload(
            store, kept, f"{base}/snapshots/{step}-1", manifest=f"{base}/snapshots/{step}-1.json"
        )
    parts = survey_store(store)
    assert {p.state for p in parts} == {"whole"} and f"snapshot of {stopped}" in [
        p.name for p in parts
    ]
    weights = next(p for p in parts if p.name == f"weights of {finished}").files[0]
    token = "tokens/bible-train/token_bytes/c/0"
    for name in (weights, token):
        content = bytearray(store.find(name).content)
        content[-1] ^= 1
        store.write(name, bytes(content))
    bad = [p for p in survey_store(store) if p.state != "whole"]
    assert [(p.name, p.files) for p in bad] == [
        ("tokens of bible-train", (token,)), (f"weights of {finished}", (weights,)),
    ]  # fmt: skip
    assert all([*repair_part(store, part)] for part in bad)
    left = {name.split("/")[1] for prefix in ("runs", "tokens") for name in store.names(prefix)}
    assert finished not in left and "bible-train" not in left and store.find("corpora.json") is None
