"""`relscale eval`: names in, one folder of scores out, and one line for each slip."""

import csv
import json
import math
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from relscale.cli import main
from relscale.eval.items import MMLU_DOMAINS
from relscale.model.decoder import init_model
from relscale.model.hub import save_hf
from relscale.model.loss import token_nll
from relscale.model.open import open_model
from relscale.plan.spec import ModelSpec
from relscale.tables import read_table, validate_scores
from relscale.text.tokenizer import save_tokenizer, train_tokenizer

ROWS = [
    {"query": "Question: What do bees make?", "choices": ["honey", "silk"], "gold": 0},
    {"query": "Question: What falls from clouds?", "choices": ["sand", "rain"], "gold": 1},
    {"query": "Question: Où boit-on un café ?", "choices": ["au café", "au naïf"], "gold": 0},
]
STEM = [
    ["What is 2 + 2?", "3", "4", "5", "6", "B"],
    ["What is 3 x 3?", "9", "6", "12", "1", "A"],
    ["What is 7 - 5?", "1", "3", "2", "0", "C"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Qwen3 and a Llama folder with random weights, and items in three layouts."""
    place = tmp_path_factory.mktemp("eval")
    tokenizer = train_tokenizer([row["query"] for row in ROWS] * 20, 290)
    save_tokenizer(train_tokenizer([row["query"] for row in ROWS] * 20, 300), place / "other.json")
    for name, qk_norm in (("qwen", True), ("llama", False)):
        spec = ModelSpec(32, 2, 2, 1, 16, 64, vocab=292, qk_norm=qk_norm)
        model = init_model(spec, key=jax.random.key(1))
        save_hf(model, place / name, tokenizer=tokenizer, max_positions=256)
    items = place / "items"
    items.mkdir()
    (items / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for split in ("dev", "test"):
        (items / split).mkdir()
        for subject in (s for subjects in MMLU_DOMAINS.values() for s in subjects):
            with open(items / split / f"{subject}_{split}.csv", "w", newline="") as file:
                csv.writer(file).writerows(STEM if split == "dev" else STEM[:2])
    return place


def run(*arguments) -> int:
    return main(["eval", *map(str, arguments)])


def nats(opened, context: str, continuation: str) -> float:
    """A log-likelihood from one plain pass over the whole text."""
    before = opened.tokenizer.encode(context).ids
    tokens = opened.tokenizer.encode(context + continuation).ids
    losses = np.asarray(token_nll(opened.model, jnp.array([tokens])))[0]
    return -float(losses[len(before) - 1 :].sum())


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_scores_of_a_folder(place, tmp_path, family, capsys):
    """Accuracy and log-probability by hand, over the texts that the continuation form scores; 1e-4 nats in float32."""
    assert (
        run(
            place / family,
            "--tasks",
            "arc-easy",
            "--items",
            place / "items",
            "--out",
            tmp_path / "o",
        )
        == 0
    )
    scores = validate_scores(read_table(tmp_path / "o" / "scores.parquet"))
    assert set(scores["run_id"]) == {family} and set(scores["n"]) == {3}
    opened, right, gold = open_model(place / family), [], []
    for row in ROWS:
        context = f"{row['query'].strip()}\nAnswer:"
        found = [nats(opened, context, f" {choice}") for choice in row["choices"]]
        right.append(int(np.argmax(found)) == row["gold"])
        gold.append(found[row["gold"]])
    value = scores.set_index("metric")["value"]
    assert value["accuracy"] == pytest.approx(np.mean(right))
    assert value["log_probability"] == pytest.approx(np.mean(gold), abs=1e-4)
    spoken = capsys.readouterr().out
    assert "accuracy" in spoken and str(tmp_path / "o" / "scores.parquet") in spoken


def test_formats_shots_limit_and_a_second_call(place, tmp_path, capsys):
    """A second call adds its tasks to the folder; what is there stays, and its rows keep their values."""
    common = ["--items", place / "items", "--out", tmp_path / "o", "--limit", 1]
    assert run(place / "qwen", "--tasks", "mmlu", "--format", "mcq", "--shots", 2, *common) == 0
    first = read_table(tmp_path / "o" / "scores.parquet")
    assert set(first["task"]) == {"mmlu-mcq", "mmlu-mcq:subjects"}
    assert set(first["task_version"]) == {"1-shots2-limit1"}
    out = capsys.readouterr().out
    assert all(domain in out for domain in (*MMLU_DOMAINS, "accuracy_macro"))
    assert "abstract_algebra" not in out
    assert run(place / "qwen", "--tasks", "arc-easy,embedded", *common) == 0
    both = read_table(tmp_path / "o" / "scores.parquet")
    assert {"mmlu-mcq", "arc-easy", "embedded"} <= set(both["task"])
    kept = both[both["task"].str.startswith("mmlu")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[first.columns], first, check_dtype=False)


def test_a_long_prompt_is_cut_and_counted_or_refused(place, tmp_path, capsys):
    """Three examples make prompts longer than 256 tokens of a byte-level vocabulary."""
    common = [
        "--tasks",
        "mmlu-modified-mcq",
        "--items",
        place / "items",
        "--shots",
        3,
        "--limit",
        1,
    ]
    assert run(place / "qwen", *common, "--out", tmp_path / "cut") == 0
    scores = read_table(tmp_path / "cut" / "scores.parquet")
    subjects = scores[scores["task"].str.contains(":") & (scores["metric"] == "bits_per_byte")]
    cut = int(subjects["num_cut"].sum())
    assert 10 < cut <= 57  # names of subjects differ in length, and some prompts fit
    assert f"{cut} questions were longer than the window" in capsys.readouterr().out
    code = run(place / "qwen", *common, "--overflow", "refuse", "--out", tmp_path / "refused")
    error = capsys.readouterr().err
    assert code == 2 and "window" in error and not (tmp_path / "refused").exists()


def test_dtype_and_tokenizer(place, tmp_path):
    common = ["--tasks", "arc-easy", "--items", place / "items"]
    run(place / "qwen", *common, "--out", tmp_path / "a")
    own = place / "qwen" / "tokenizer.json"
    assert (
        run(
            place / "qwen",
            *common,
            "--out",
            tmp_path / "b",
            "--dtype",
            "bfloat16",
            "--tokenizer",
            own,
        )
        == 0
    )
    exact, coarse = (
        read_table(tmp_path / name / "scores.parquet").set_index("metric")["value"][
            "log_probability"
        ]
        for name in "ab"
    )
    assert exact != coarse and coarse == pytest.approx(exact, rel=0.02)


def damaged(place, tmp_path, text):
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "arc_easy.jsonl").write_text(text)
    return folder


GOOD = json.dumps(ROWS[0]) + "\n"
SLIPS = {
    "unknown task": (["qwen", "--tasks", "mmlv"], "no task 'mmlv': use mmlu-mcq"),
    "no task": (["qwen", "--tasks"], "name one at least"),
    "unknown format": (["qwen", "--tasks", "arc-easy", "--format", "haiku"], "haiku"),
    "no items": (["qwen", "--tasks", "arc-easy"], "--items DIR"),
    "no such items": (["qwen", "--tasks", "arc-easy", "--items", "nowhere"], "nowhere: no such folder"),
    "items of another task": (["qwen", "--tasks", "piqa", "--items", "{place}/items"], "no items in"),
    "no such model": (["nowhere", "--tasks", "embedded"], "no such folder"),
    "not a model": (["items", "--tasks", "embedded"], "neither a run"),
    "another tokenizer": (["qwen", "--tasks", "embedded", "--tokenizer", "{place}/other.json"], "292 tokens .* 300"),
    "no tokenizer file": (["qwen", "--tasks", "embedded", "--tokenizer", "{place}/none.json"], "none.json"),
    "shots of a task without examples": (
        ["qwen", "--tasks", "arc-easy", "--shots", "5", "--items", "{place}/items"], "ARC-Easy-Train",
    ),
    "limit of none": (["qwen", "--tasks", "arc-easy", "--limit", "0", "--items", "{place}/items"], "--limit 0"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_one_line_and_leave_nothing(place, tmp_path, slip, capsys):
    import re

    (name, *arguments), says = SLIPS[slip]
    arguments = [a.format(place=place) for a in arguments]
    assert run(place / name, *arguments, "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1 and error.startswith("relscale: ")
    assert not (tmp_path / "o").exists()


LINES = {
    "corrupt line": (GOOD + '{"query": "cut of', r"arc_easy\.jsonl.*2"),
    "missing choice": (GOOD + json.dumps(ROWS[1] | {"choices": ["sand"]}) + "\n", r"arc_easy\.jsonl.*2"),
    "gold out of range": (GOOD + json.dumps(ROWS[1] | {"gold": 2}) + "\n", r"arc_easy\.jsonl.*2"),
    "empty": ("", r"arc_easy\.jsonl: empty file"),
}  # fmt: skip


@pytest.mark.parametrize("slip", LINES)
def test_damaged_items_are_named_by_file_and_line(place, tmp_path, slip, capsys):
    import re

    text, says = LINES[slip]
    items = damaged(place, tmp_path, text)
    assert (
        run(place / "qwen", "--tasks", "arc-easy", "--items", items, "--out", tmp_path / "o") == 2
    )
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_folder_holds_one_model_and_nothing_else(place, tmp_path, capsys):
    common = ["--tasks", "arc-easy", "--items", place / "items", "--out", tmp_path / "o"]
    assert run(place / "qwen", *common) == 0
    before = (tmp_path / "o" / "scores.parquet").read_bytes()
    assert run(place / "llama", *common) == 2
    assert "another model" in capsys.readouterr().err
    assert (tmp_path / "o" / "scores.parquet").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert run(place / "qwen", *common[:-1], tmp_path / "mine") == 2
    assert "thesis.tex" in capsys.readouterr().err


def test_help_comes_at_once():
    """Seconds of the processor, best of two; JAX alone takes longer."""
    code = (
        "import sys, time\nfrom relscale.cli import main\n"
        "try: main(['eval', '--help'])\nexcept SystemExit: pass\n"
        "print(time.process_time(), 'jax' in sys.modules)"
    )
    lines = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.splitlines()[-1]
        .split()
        for _ in range(2)
    ]
    assert {heavy for _, heavy in lines} == {"False"}
    assert min(float(seconds) for seconds, _ in lines) < 1.5 and math.isfinite(float(lines[0][0]))


@pytest.mark.long
def test_a_killed_evaluation_goes_on_item_by_item(tmp_path):
    """SIGKILL while answers are being written: what is there is kept to the byte, the bar begins there, and the scores are those of one run."""
    queries = [f"Question: What is {i} times {i + 1}?" for i in range(1, 401)]
    rows = [
        {"query": q, "choices": [str(i), str(i * (i + 1))], "gold": 1}
        for i, q in enumerate(queries, 1)
    ]
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "arc_easy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    spec = ModelSpec(256, 4, 4, 2, 64, 768, vocab=290)
    tokenizer = train_tokenizer(queries * 2, 290)
    model = init_model(spec, key=jax.random.key(2))
    save_hf(model, tmp_path / "model", tokenizer=tokenizer, max_positions=128)

    def command(out):
        return [sys.executable, "-m", "relscale", "eval", str(tmp_path / "model"), "--tasks", "arc-easy",
                "--items", str(tmp_path / "items"), "--out", str(tmp_path / out)]  # fmt: skip

    answers = tmp_path / "killed" / "requests" / "answers.jsonl"
    with subprocess.Popen(command("killed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 240
        while not (answers.exists() and answers.read_bytes().count(b"\n") >= 40):
            assert run.poll() is None and time.monotonic() < deadline, (
                "done or stuck before the kill"
            )
            time.sleep(0.02)
        run.kill()
    kept = answers.read_bytes()
    count = kept.count(b"\n")
    assert 40 <= count < 800 and not (tmp_path / "killed" / "tasks").exists()
    told = subprocess.run(command("killed"), capture_output=True, text=True, check=True).stderr
    assert answers.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert answers.read_bytes().count(b"\n") == 800
    assert f"| {count}/800 [" in told and re.search(r"\[\d\d:\d\d<\d\d:\d\d", told)  # time left
    subprocess.run(command("whole"), capture_output=True, check=True)
    again, whole = (read_table(tmp_path / out / "scores.parquet") for out in ("killed", "whole"))
    pd.testing.assert_frame_equal(again, whole, check_exact=False, rtol=1e-5)
