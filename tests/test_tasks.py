"""Means over groups, resuming, and refusals of `evaluate`; values against a scorer that is too simple to be wrong."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest

import relscale.eval.likelihoods
import relscale.eval.requests
from relscale.core import UserError
from relscale.eval.data_sets import DATA_SETS, load_items
from relscale.eval.evaluation import describe_scores, evaluate, task_fingerprint
from relscale.eval.items import MMLU_DOMAINS, RISK_CLUSTERS, Item
from relscale.eval.prompts import METRICS, Prompt, choice_metrics, requests_of, scored_options
from relscale.eval.requests import Likelihood
from relscale.eval.tasks import TASKS, Questions, Task, choice_scores, get_task
from relscale.model.decoder import init_model
from relscale.model.loss import token_nll
from relscale.plan.spec import ModelSpec, from_json, to_json
from relscale.tables import join_scores, read_table, validate_scores
from relscale.text.tokenizer import END_OF_TEXT, train_tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data"  # beside the checkout
WINDOW = 160


def model(seed=0, window=WINDOW):
    tokenizer = train_tokenizer(
        ["Which planet is red? Mars, and the Sun. Answer: A. B. C. D.\n"] * 20, 270
    )
    vocab = tokenizer.get_vocab_size()
    spec = ModelSpec(hidden=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp=64, vocab=vocab)  # fmt: skip
    return SimpleNamespace(
        name="tiny", model=init_model(spec, key=jax.random.key(seed)), tokenizer=tokenizer, window=window,
        start_token=tokenizer.token_to_id(END_OF_TEXT), start="empty",
    )  # fmt: skip


nll = eqx.filter_jit(token_nll)


def one_at_a_time(opened, requests, *, overflow="cut", results=None, progress=False):
    """Each request on its own: tokens of the whole, the last window of them, a padded row."""
    found = []
    for context, continuation in requests:
        before = opened.tokenizer.encode(context).ids or [opened.start_token]
        tokens = [*before, *opened.tokenizer.encode(context + continuation).ids[len(opened.tokenizer.encode(context).ids) :]]  # fmt: skip
        n, cut = len(tokens) - len(before), max(len(tokens) - opened.window - 1, 0)
        if cut and overflow == "refuse":
            raise UserError("prompt longer than the window")
        tokens = tokens[cut:]
        row = np.array([tokens + [0] * (opened.window + 1 - len(tokens))])
        nats = np.asarray(nll(opened.model, row), np.float64)[0, len(tokens) - 1 - n : len(tokens) - 1]  # fmt: skip
        found.append(SimpleNamespace(log_likelihood=-nats.sum(), num_bytes=len(continuation.encode()), num_cut=cut, num_tokens=n))  # fmt: skip
    return found


@pytest.fixture
def engine(monkeypatch):
    """Counts the requests of each call of the engine, and stops it at the call that `fail_at` names."""
    calls = SimpleNamespace(sizes=[], fail_at=None)
    score = getattr(relscale.eval.likelihoods, "log_likelihoods", one_at_a_time)

    def counting(opened, requests, **options):
        calls.sizes.append(len(requests))
        if calls.fail_at == len(calls.sizes):
            raise KeyboardInterrupt
        return score(opened, requests, **options)

    monkeypatch.setattr(relscale.eval.likelihoods, "log_likelihoods", counting, raising=False)
    monkeypatch.setattr(relscale.eval.requests, "Request", getattr(relscale.eval.requests, "Request", Prompt), raising=False)  # fmt: skip
    return calls


@pytest.fixture
def items(tmp_path):
    """Two subjects of MMLU, three questions and two examples each, and four lines of ARC: our own."""
    folder = tmp_path / "items"
    for split, count in {"test": 3, "dev": 2}.items():
        (folder / split).mkdir(parents=True)
        for subject in ("astronomy", "virology"):
            rows = [f"{subject} {split} {i}?,Mars {i},the Sun,a é,Answer,{'ABCD'[i]}" for i in range(count)]  # fmt: skip
            (folder / split / f"{subject}_{split}.csv").write_text("\n".join(rows) + "\n")
    rows = [{"query": f"Question: red {i}?", "choices": ["Mars", "the Sun"], "gold": i % 2} for i in range(4)]  # fmt: skip
    (folder / "arc_easy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


TWO = {"groups": ["astronomy", "virology"]}


@pytest.mark.parametrize("format", ["mcq", "modified-mcq", "continuation"])
def test_values_are_means_over_questions(engine, items, format):
    """1e-4 relative, for the float32 of two ways to batch a model."""
    opened, task = model(), get_task("mmlu", format=format, shots=1)
    found = evaluate(opened, task, items, groups=TWO["groups"], run_id="tiny")
    read = load_items("mmlu", items, groups=TWO["groups"], num_shots=1)
    assert len(found) == 2 * len(METRICS)
    for subject, questions in read.items.items():
        rows = []
        for item in questions:
            asked = requests_of(item, read.shots[subject], format, description=task.description)
            nats = [x.log_likelihood for x in one_at_a_time(opened, asked)]
            rows.append(choice_metrics(nats, scored_options(item, format), item.gold))
        for metric in METRICS:
            values = np.array([row[metric] for row in rows])
            (row,) = found[(found["group"] == subject) & (found["metric"] == metric)].to_dict("records")  # fmt: skip
            assert row["value"] == pytest.approx(values.mean(), rel=1e-4, abs=1e-5), metric
            assert row["stderr"] == pytest.approx(values.std(ddof=1) / 3**0.5, rel=1e-2, abs=1e-4)
            assert (row["n"], row["num_shots"], row["prompt_format"]) == (3, 1, format)
            assert row["higher_is_better"] == METRICS[metric].higher_is_better
            assert (row["task"], row["task_version"]) == (f"mmlu-{format}:subjects", "1-shots1")


def answers(items, task, seed=0):
    """Drawn log-likelihoods for every request of a task, and the metrics of each question by group."""
    rng, found, rows = np.random.default_rng(seed), [], []
    for group, questions in items.items():
        for item in questions:
            options = scored_options(item, task.format)
            nats = rng.normal(-9, 2, len(options))
            found += [SimpleNamespace(log_likelihood=x, num_bytes=len(o.encode()) + 1, num_cut=0, num_tokens=1) for x, o in zip(nats, options, strict=True)]  # fmt: skip
            rows.append({"group": group, **choice_metrics(nats, options, item.gold)})
    return found, pd.DataFrame(rows)


def made_up(groups, choices=("Yes", "No"), sizes=range(2, 9)):
    """Questions by group, of unequal numbers."""
    sizes = list(sizes)
    return {
        g: [Item(f"{g}/{i}", g, "?", choices, i % len(choices)) for i in range(sizes[at % len(sizes)])]
        for at, g in enumerate(groups)
    }  # fmt: skip


def pick(frame, task, group, metric):
    (row,) = frame[(frame["task"] == task) & (frame["group"] == group) & (frame["metric"] == metric)].to_dict("records")  # fmt: skip
    return row


def test_means_of_domains_follow_the_released_suite():
    """Accuracy by size, all else by subject; both errors against textbook formulas, to float64 rounding."""
    task = get_task("mmlu-mcq-text")
    items = made_up(DATA_SETS["mmlu"].groups, ("one", "the two", "3", "4 é"))
    found, rows = answers(items, task)
    scores = choice_scores(task, items, found, run_id="r")
    for domain, subjects in MMLU_DOMAINS.items():
        own = rows[rows["group"].isin(subjects)]
        means = own.groupby("group")[list(METRICS)].mean()
        sems = own.groupby("group")[list(METRICS)].sem()
        n = own.groupby("group").size()
        accuracy, bits = (pick(scores, task.name, domain, m) for m in ("accuracy", "bits_per_byte"))
        assert accuracy["value"] == pytest.approx(own["accuracy"].mean(), rel=1e-12)
        assert accuracy["stderr"] == pytest.approx(np.sqrt((n**2 * sems["accuracy"] ** 2).sum()) / n.sum())  # fmt: skip
        assert bits["value"] == pytest.approx(means["bits_per_byte"].mean(), rel=1e-12)
        assert bits["stderr"] == pytest.approx(np.sqrt((sems["bits_per_byte"] ** 2).sum()) / len(subjects))  # fmt: skip
        assert bits["stderr_between"] == pytest.approx(means["bits_per_byte"].sem())
        assert (accuracy["mean_over"], bits["mean_over"]) == ("questions", "groups")
        assert accuracy["n"] == bits["n"] == len(own)
        # The two kinds of mean are not the same here, or this test would see nothing.
        assert abs(means["accuracy"].mean() - own["accuracy"].mean()) > 1e-4
    for metric in ("accuracy", "bits_per_byte"):
        micro, macro = (pick(scores, task.name, "all", metric + end)["value"] for end in ("_micro", "_macro"))  # fmt: skip
        assert micro == pytest.approx(rows[metric].mean(), rel=1e-12)
        assert macro == pytest.approx(rows.groupby("group")[metric].mean().mean(), rel=1e-12)


def test_risk_clusters_average_behaviours():
    task, items = get_task("risk"), made_up(DATA_SETS["risk"].groups)
    found, rows = answers(items, task)
    scores = choice_scores(task, items, found, run_id="r")
    assert set(scores[scores["task"] == "risk"]["group"]) == {*RISK_CLUSTERS, "all"}
    assert set(scores[scores["task"] == "risk:behaviours"]["group"]) == set(items)
    for cluster, slugs in RISK_CLUSTERS.items():
        for metric in ("choice_probability", "accuracy"):
            means = rows[rows["group"].isin(slugs)].groupby("group")[metric].mean()
            assert pick(scores, "risk", cluster, metric)["value"] == pytest.approx(means.mean(), rel=1e-12)  # fmt: skip
    # The fit over groups meets the five clusters and nothing else.
    runs = pd.DataFrame([{"run_id": "r", "suite": "s", "corpus": "c", "status": "finished", "budget_flops": 1e18, "train_flops": 1e18, "num_params": 10, "num_tokens": 10}])  # fmt: skip
    joined = join_scores(runs, scores, metric="choice_probability", task="risk")
    assert set(joined["group"]) == set(RISK_CLUSTERS)


def test_a_mean_whose_groups_are_not_all_there_is_left_out():
    task, groups = get_task("risk"), [g for g in DATA_SETS["risk"].groups if g != "no_shut_down"]
    items = made_up(groups)
    scores = choice_scores(task, items, answers(items, task)[0], run_id="r")
    assert set(scores[scores["task"] == "risk"]["group"]) == set(RISK_CLUSTERS) - {"Incorrigibility"}  # fmt: skip


def test_bytes_are_those_the_engine_scored():
    """White space that moved over from the context, or no delimiter at all, changes them."""
    task, items = get_task("risk-no-space"), made_up(DATA_SETS["risk"].groups, sizes=[1])
    found, _ = answers(items, task)
    for answer in found:
        answer.num_bytes = 7
    scores = choice_scores(task, items, found, run_id="r")
    row, item = (
        pick(scores, "risk-no-space:behaviours", "no_shut_down", "bits_per_byte"),
        list(items),
    )
    at = 2 * item.index("no_shut_down")
    nats = found[at + items["no_shut_down"][0].gold].log_likelihood
    assert row["value"] == pytest.approx(-nats / (7 * np.log(2)), rel=1e-12)


@pytest.mark.parametrize("delimiter", ["", "  "])
def test_a_tasks_own_delimiter_is_what_is_scored(items, monkeypatch, delimiter):
    asked = []

    def drawn(opened, requests, **options):
        asked.extend(requests)
        return [
            SimpleNamespace(log_likelihood=-1.0, num_bytes=4, num_cut=0, num_tokens=1)
            for _ in requests
        ]

    monkeypatch.setattr(relscale.eval.likelihoods, "log_likelihoods", drawn)
    evaluate(model(), replace(get_task("arc-easy"), delimiter=delimiter), items)
    assert [r.continuation for r in asked] == [delimiter + c for c in ("Mars", "the Sun")] * 4


def test_one_question_has_no_error():
    task, items = get_task("arc-easy"), made_up(["arc-easy"], sizes=[1])
    scores = choice_scores(task, items, answers(items, task)[0], run_id="r")
    assert scores["stderr"].isna().all() and (scores["n"] == 1).all()
    with pytest.raises(UserError, match="3 likelihoods for 2 requests"):
        choice_scores(task, items, [*answers(items, task)[0], None], run_id="r")


def test_an_interrupted_evaluation_resumes(engine, items, tmp_path):
    opened, out = model(), tmp_path / "out"
    names, options = (
        ["mmlu-mcq", "mmlu-continuation"],
        {"questions": Questions(items, shots=1), **TWO},
    )
    whole = evaluate(opened, names, **options)
    engine.sizes.clear()
    engine.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(opened, names, out=out, **options)
    assert [p.name for p in (out / "tasks").iterdir()] == ["mmlu-mcq.json"]
    assert not (out / "scores.parquet").exists() and not (out / "eval.json").exists()
    engine.fail_at = None
    engine.sizes.clear()
    found = evaluate(opened, names, out=out, **options)
    assert engine.sizes == [24]  # the second task's alone
    pd.testing.assert_frame_equal(found, whole)
    assert evaluate(opened, names, out=out, **options).equals(found) and engine.sizes == [24]
    assert not [p for p in out.rglob("*") if p.name.endswith(".part")]


def test_a_folder_gathers_the_tasks_of_one_model(engine, items, tmp_path):
    opened, out = model(), tmp_path / "out"
    evaluate(opened, "mmlu-mcq", Questions(items, shots=1), out=out, **TWO)
    alone = evaluate(opened, "arc-easy", items, out=out)
    assert set(alone["task"]) == {"arc-easy"}
    table = validate_scores(read_table(out / "scores.parquet"))
    assert set(table["task"]) == {"mmlu-mcq:subjects", "arc-easy"}
    card = json.loads((out / "eval.json").read_text())
    assert card["run_id"] == "tiny" and list(card["tasks"]) == ["arc-easy", "mmlu-mcq"]
    assert card["tasks"]["arc-easy"]["licence"] == "CC BY-SA 4.0"
    assert card["tasks"]["mmlu-mcq"]["version"] == "1-shots1"
    assert card["tasks"]["mmlu-mcq"]["groups"] == {"astronomy": 3, "virology": 3}


def test_a_kept_task_of_other_settings_is_refused(engine, items, tmp_path):
    opened, out = model(), tmp_path / "out"
    evaluate(opened, "arc-easy", items, out=out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for change, message in (
        ({"questions": Questions(items, limit=2)}, "another task_version, items;"),
        ({"questions": Questions(items, shots=0), "run_id": "other"}, "another run_id;"),
        ({"tasks": Task("arc-easy", "choice", "arc-easy", version="2")}, "another task, task_version;"),
        ({"opened": model(seed=1)}, "another model;"),
        ({"opened": model(window=WINDOW + 1)}, "another model;"),
        ({"tasks": "mmlu-mcq", "questions": Questions(items, shots=1), "opened": model(seed=1), **TWO}, "another model;"),
    ):  # fmt: skip
        options = {"opened": opened, "tasks": "arc-easy", "questions": items, "out": out} | change
        with pytest.raises(UserError, match=message):
            evaluate(**options)
    text = (items / "arc_easy.jsonl").read_text()
    (items / "arc_easy.jsonl").write_text(text.replace('"gold": 1', '"gold": 0', 1))
    with pytest.raises(UserError, match="another items;"):
        evaluate(opened, "arc-easy", items, out=out)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    kept = (out / "tasks" / "arc-easy.json").read_text()
    for spoilt in ("{", kept.replace('"value": 0', '"value": 1')):
        assert spoilt != kept
        (out / "tasks" / "arc-easy.json").write_text(spoilt)
        with pytest.raises(UserError, match="not a finished task"):
            evaluate(opened, "arc-easy", items, out=out)


@pytest.mark.parametrize("place", [(-1, -1, -1), (-1, 3, 5)])
def test_one_weight_makes_another_model(engine, items, tmp_path, place):
    """A checkpoint tuned in its last layer alone is not the one before, whatever its other weights."""
    opened, out = model(), tmp_path / "out"
    evaluate(opened, "arc-easy", items, out=out)
    weights = opened.model.blocks.mlp.down
    tuned = eqx.tree_at(lambda m: m.blocks.mlp.down, opened.model, weights.at[place].add(1e-3))
    other = SimpleNamespace(**vars(opened) | {"model": tuned})
    with pytest.raises(UserError, match="another model;"):
        evaluate(other, "arc-easy", items, out=out)


@pytest.mark.parametrize(
    "tasks, change, message",
    [
        (["arc-easy", "copa"], {}, "copa: no items in"),
        (["arc-easy", "mmlu-mcq"], {}, "no items of abstract_algebra"),
        (["arc-easy", "arc"], {}, "no task 'arc': use mmlu-mcq"),
        (["arc-easy", "arc-easy"], {}, "each once"),
        ([], {}, "name one at least"),
        (["arc-easy"], {"format": "partial"}, "needs an item with contexts"),
        (["arc-easy"], {"format": "verse"}, "format 'verse'"),
        (["arc-easy"], {"items": {"mmlu": "."}}, "no place for 'arc-easy', only mmlu"),
        (["text"], {"shots": 1}, "has no format and no examples"),
    ],
)
def test_slips_are_told_before_anything_is_scored(engine, items, tmp_path, tasks, change, message):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        evaluate(model(), tasks, Questions(**{"items": items} | change), out=out)
    assert engine.sizes == [] and not out.exists()


def test_limits_formats_and_places(engine, items):
    opened = model()
    found = evaluate(opened, "arc-easy", Questions({"arc-easy": items / "arc_easy.jsonl"}, limit=3))
    assert set(found["task_version"]) == {"1-limit3"} and set(found["n"]) == {3}
    other = evaluate(opened, "arc-easy", Questions(items, format="mcq"))
    assert set(other["task"]) == {"arc-easy-mcq"} and set(other["prompt_format"]) == {"mcq"}
    assert len(validate_scores(pd.concat([found, other]))) == 2 * len(METRICS)


def test_schemas_have_one_request_a_context(engine, items):
    """The winner is the context after which the shared text is likelier; 1e-4 as above."""
    opened = model()
    rows = [
        {"context_options": ["red Mars", "the Sun"], "continuation": f"is {i} red.", "gold": i % 2}
        for i in range(3)
    ]
    (items / "winogrande.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = evaluate(opened, "winogrande", items)
    assert engine.sizes == [6]
    asked = [(c, " " + r["continuation"]) for r in rows for c in r["context_options"]]
    nats = np.array([x.log_likelihood for x in one_at_a_time(opened, asked)]).reshape(3, 2)
    value = pick(found, "winogrande", "winogrande", "log_probability")["value"]
    assert value == pytest.approx(nats[[0, 1, 2], [0, 1, 0]].mean(), rel=1e-4)


def test_cut_contexts_are_counted_or_refused(engine, items, tmp_path):
    long = "far " * 300 + "red?"
    rows = [{"query": q, "choices": ["Mars", "the Sun"], "gold": 0} for q in (long, "red?")]
    (items / "arc_easy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = evaluate(model(), "arc-easy", items, out=tmp_path / "out")
    assert set(found["num_cut"]) == {1} and set(found["n"]) == {2}
    card = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert card["tasks"]["arc-easy"]["requests_cut"] == 2
    with pytest.raises(UserError):
        evaluate(model(), "arc-easy", items, overflow="refuse", out=tmp_path / "other")
    assert not (tmp_path / "other" / "tasks").exists()


def test_text_tasks_are_scored_by_group(monkeypatch, tmp_path):
    if importlib.util.find_spec("relscale.eval.groups") is None:
        groups = ModuleType("relscale.eval.groups")
        groups.load_ice = None
        groups.load_groups = lambda where, max_documents=None: {
            p.stem.split("_")[0]: [SimpleNamespace(domain="x", name=p.name, text=p.read_text())] for p in sorted(Path(where).iterdir())
        }  # fmt: skip
        groups.score_groups = lambda opened, found, skip_tokens=0: SimpleNamespace(
            scores=lambda run_id, task, task_version: pd.DataFrame(
                [{"run_id": run_id, "task": task, "group": g, "metric": "bits_per_byte", "value": 1.0, "n": 1, "higher_is_better": False, "task_version": task_version} for g in found]
            )
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "relscale.eval.groups", groups)
    folder = tmp_path / "items" / "regional_speeches"
    folder.mkdir(parents=True)
    for name in ("AUS_1", "AUS_2", "KEN_1", "KEN_2"):
        (folder / f"{name}.txt").write_text(f"Mars and the Sun, {name}. " * 5)
    opened = model()
    found = evaluate(opened, "regional-speeches", tmp_path / "items", out=tmp_path / "out")
    assert {"AUS", "KEN"} <= set(found["group"]) and set(found["task"]) == {"regional-speeches"}
    assert (found["value"] > 0).all() and "bits_per_byte" in set(found["metric"])
    again = evaluate(opened, "text", folder, groups=["KEN"], out=tmp_path / "out")
    assert "AUS" not in set(again["group"])
    with pytest.raises(UserError, match="no group 'USA'; it has AUS, KEN"):
        evaluate(opened, "text", folder, groups=["USA"])
    with pytest.raises(UserError, match="tokens_at_once=0"):  # keywords reach this engine too
        evaluate(opened, "text", folder, tokens_at_once=0)


@pytest.mark.skipif(not (DATA / "mmlu").is_dir(), reason=f"no real items in {DATA}")
def test_all_domains_of_the_real_mmlu(monkeypatch):
    """Drawn likelihoods on two questions of each of 57 subjects; five examples fill every prompt."""
    prompts = []

    def drawn(opened, requests, **options):
        prompts.extend(requests)
        rng = np.random.default_rng(0)
        return [SimpleNamespace(log_likelihood=x, num_bytes=9, num_cut=0, num_tokens=1) for x in rng.normal(-9, 2, len(requests))]  # fmt: skip

    monkeypatch.setattr(relscale.eval.likelihoods, "log_likelihoods", drawn, raising=False)
    monkeypatch.setattr(relscale.eval.requests, "Request", Prompt, raising=False)
    found = evaluate(model(), "mmlu-modified-mcq", Questions(DATA, limit=2))
    assert len(prompts) == 57 * 2 * 4
    assert all(p.context.count("\nAnswer:") == 6 for p in prompts)
    domains = found[(found["task"] == "mmlu-modified-mcq") & (found["metric"] == "bits_per_byte")]
    assert dict(zip(domains["group"], domains["n"], strict=True)) == {d: 2 * len(s) for d, s in MMLU_DOMAINS.items()}  # fmt: skip


def test_records_are_json():
    for task in TASKS.values():
        assert from_json(Task, to_json(task)) == task
    with pytest.raises(UserError, match="no data set 'mnlu'"):
        Task("x", "choice", "mnlu")
    with pytest.raises(UserError, match="metric 'acc'"):
        Task("x", "choice", "mmlu", metric="acc")
    assert get_task("arc-easy", format="continuation") is TASKS["arc-easy"]
    assert get_task("mmlu-mcq", format="continuation") is TASKS["mmlu-continuation"]


def test_questions_travel_to_workers_in_other_folders(tmp_path, monkeypatch):
    """Paths become absolute, each of a mapping too; names on Hugging Face stay as they are."""
    monkeypatch.chdir(tmp_path)
    assert Questions("items", limit=3).absolute() == Questions(str(tmp_path / "items"), limit=3)
    places = {"mmlu": "hf:cais/mmlu", "copa": Path("copa.jsonl")}
    found = Questions(places).absolute().items
    assert found == {"mmlu": "hf:cais/mmlu", "copa": str(tmp_path / "copa.jsonl")}
    assert Questions("hf").absolute() == Questions("hf")


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"shots": -1}, {"format": "verse"}, {"items": None}]
)
def test_questions_refuse_nonsense(wrong):
    with pytest.raises(UserError, match=str(*wrong)):
        Questions(**wrong)


def test_a_fingerprint_is_of_all_that_is_asked(items):
    """Another limit, format, number of examples or gold is another task; another folder with the same items is not."""
    first = task_fingerprint("arc-easy", items)
    assert task_fingerprint("arc-easy", {"arc-easy": items / "arc_easy.jsonl"}) == first
    assert task_fingerprint(get_task("arc-easy"), Questions(items)) == first
    others = [{"limit": 3}, {"limit": 4}, {"format": "mcq"}]
    found = [task_fingerprint("arc-easy", Questions(items, **other)) for other in others]
    (items / "arc_easy.jsonl").write_text(
        (items / "arc_easy.jsonl").read_text().replace('"gold": 1', '"gold": 0', 1)
    )
    found.append(task_fingerprint("arc-easy", items))
    assert len({first, *found}) == 5


def test_scores_as_text_show_a_tasks_own_metric():
    """Of risk: clusters and means by the task's metric, and the one question that the window cut, counted once."""
    task = get_task("risk")
    asked = made_up(DATA_SETS["risk"].groups, sizes=[2])
    found, _ = answers(asked, task)
    found[0].num_cut = found[1].num_cut = 7
    said = describe_scores(choice_scores(task, asked, found, run_id="r"), [task])
    assert "choice_probability_macro" in said and "choice_probability_micro" in said
    assert all(cluster in said for cluster, _ in task.clusters) and "log_probability" not in said
    assert "1 questions were longer than the window" in said


def test_a_question_without_a_token_to_score_is_left_out_and_counted():
    """The values are those of the other questions alone; a group of which nothing is left is refused."""
    items, task = made_up(["a", "b"], sizes=(5, 7)), replace(get_task("risk"), clusters=())
    found, rows = answers(items, task)
    for question in (1, 8):  # one of each group: any option without a token counts
        found[2 * question + question % 2] = Likelihood(float("nan"), False, 0, 0, 0)
    scores = choice_scores(task, items, found, run_id="x")
    own = scores[scores["metric"] == "accuracy"].set_index("group")
    left = rows.drop(index=[1, 8]).groupby("group")["accuracy"]
    assert own.loc["a", "value"] == pytest.approx(left.mean()["a"], rel=1e-12)
    assert own.loc["b", "stderr"] == pytest.approx(left.sem()["b"], rel=1e-12)
    assert own.loc[["a", "b"], "n"].tolist() == [4, 6]
    assert own.loc[["a", "b"], "num_unscored"].tolist() == [1, 1]
    said = describe_scores(scores, [replace(task, metric="accuracy")])
    assert "2 questions were left out, since the tokenizer merges an option" in said
    for i in range(10):
        found[i] = Likelihood(float("nan"), False, 0, 0, 0)
    with pytest.raises(UserError, match="group a: each question has an option that the tokenizer"):
        choice_scores(task, items, found, run_id="x")


def test_an_evaluation_goes_on_without_such_questions(items, tmp_path):
    """The tokenizer has a token for ": Mars", so that answer has none of its own after "Answer:"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=262, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([": Mars"] * 50, trainer)
    assert len(tokenizer.encode(": Mars").ids) == 1
    opened = SimpleNamespace(**{**vars(model()), "tokenizer": tokenizer, "window": 400})
    choices = [["Mars", "the Sun"], ["Venus", "the Sun"], ["the Moon", "Marsh"]]
    rows = [{"query": f"red {i}?", "choices": c, "gold": 1} for i, c in enumerate(choices)]
    (items / "arc_easy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = evaluate(opened, "arc-easy", items, out=tmp_path / "out")
    assert set(found["n"]) == {2} and set(found["num_unscored"]) == {1}
    card = json.loads((tmp_path / "out" / "eval.json").read_text())["tasks"]["arc-easy"]
    # of the five others the space, or all but an h, is in the token that the prompt ends in
    assert (card["requests_unscored"], card["requests_in_part"]) == (1, 5)
    (items / "arc_easy.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match="nothing is scored"):
        evaluate(opened, "arc-easy", items)
