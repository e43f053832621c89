"""A sweep measures what it trains on tasks with items: added, changed or impossible, and nothing is trained for it."""

import numpy as np
import pytest

pytest.importorskip("jax", reason="trains, so needs the extra `train`")

from relscale.eval.tasks import Questions
from relscale.plan.recipes import SMALL, Plan, plan_run
from relscale.sweep.prepare import TextConfig
from relscale.sweep.suite import run_suite
from relscale.tables import read_table, validate_scores

ITEMS = '{{"query": "Question: what is {a} and {b}?", "choices": ["{c}", "{d}"], "gold": 0}}\n'


def write_items(folder, last="five"):
    folder.mkdir(exist_ok=True)
    rows = ITEMS.format(a="one", b="one", c="two", d="six") + ITEMS.format(
        a="two", b="two", c="four", d=last
    )
    (folder / "arc_easy.jsonl").write_text(rows)
    (folder / "piqa.jsonl").write_text(rows)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """One tiny run, swept five times; what lay in the store after each."""
    root = tmp_path_factory.mktemp("suite")
    run = plan_run(3e9, 8, SMALL, corpus="mixture")
    plan, text = Plan(SMALL, (3e9,), (run,)), TextConfig(("code",), 60_000, 6_000)
    shared = {"num_workers": 1, "say": lambda line: None}
    folder, states = root / "store" / "runs" / run.run_id, []

    def sweep(*tasks, **asked):
        result = run_suite(
            plan,
            root / "store",
            text,
            tasks=tasks,
            questions=Questions(root / "items", **asked),
            **shared,
        )
        trained = (
            (folder / "result.json").read_bytes(),
            (folder / "metrics.jsonl").stat().st_mtime_ns,
        )
        scores = validate_scores(read_table(root / "store" / "scores.parquet"))
        states.append((result, trained, scores))

    sweep("heldout")
    write_items(root / "items")
    sweep("heldout", "arc-easy")
    write_items(root / "items", last="a much too long answer " * 60)
    sweep("heldout", "arc-easy", "piqa")
    write_items(root / "items", last="seven")
    sweep("heldout", "arc-easy", "piqa")
    sweep("heldout", "arc-easy", format="mcq", shots=0)
    return states


def test_tasks_join_a_trained_run_without_training(swept):
    assert len({trained for _, trained, _ in swept}) == 1
    assert set(swept[0][2]["task"]) == {"heldout"}
    assert set(swept[1][2]["task"]) == {"heldout", "arc-easy"}
    assert not swept[1][0].failed


def test_an_impossible_task_loses_no_other_score(swept):
    """An answer longer than the window cannot be scored; held-out text still is, and the reason is told."""
    result, _, scores = swept[2]
    assert set(scores["task"]) == {"heldout"}
    ((outcome, reason),) = result.failed.values()
    assert (
        outcome == "unscored" and "arc-easy" in reason and "piqa" in reason and "\n" not in reason
    )
    assert [r["status"] for r in result.results.values()] == ["finished"]


def test_scores_of_other_items_do_not_count(swept):
    assert set(swept[3][2]["task"]) == {"heldout", "arc-easy", "piqa"}
    before, after = (
        swept[i][2]
        .query("task == 'arc-easy' and metric == 'choice_log_probability'")["value"]
        .item()
        for i in (1, 3)
    )
    assert before != after


def test_questions_in_another_format_are_other_scores(swept):
    scores = swept[4][2]
    assert set(scores["task"]) == {"heldout", "arc-easy-mcq"}
    before = swept[3][2].query("task == 'arc-easy'")["value"].to_numpy()
    after = scores.query("task == 'arc-easy-mcq'")["value"].to_numpy()
    assert not np.array_equal(before, after)


def test_large_text_is_tokenized_by_the_sweeps_workers(tmp_path, monkeypatch):
    """The same fingerprints and token counts as by this process alone."""
    import contextlib
    from concurrent.futures import ThreadPoolExecutor

    from relscale.sweep import prepare
    from relscale.sweep.store import connect
    from relscale.text import tokens

    opened, text = [], TextConfig(("code",), 200_000, 10_000)
    alone = prepare.prepare_text(connect(tmp_path / "alone"), text, 300)
    monkeypatch.setattr(prepare, "PARALLEL_BYTES", 1)

    @contextlib.contextmanager
    def pool():
        opened.append(True)
        with ThreadPoolExecutor(2) as threads:
            yield threads

    shared = prepare.prepare_text(connect(tmp_path / "shared"), text, 300, pool)
    assert opened == [True] and shared == alone
    stores = [
        tokens.open_store(tmp_path / w / "tokens" / "code-train") for w in ("alone", "shared")
    ]
    assert (np.asarray(stores[0].tokens[:]) == np.asarray(stores[1].tokens[:])).all()
