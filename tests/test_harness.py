"""The real lm-evaluation-harness with our models in it, offline, on tasks of a few lines each."""

import json
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="the bridge needs lm-eval: pip install 'relscale[harness]'")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from relscale.core import UserError
from relscale.eval.harness import HarnessModel, generate, main
from relscale.lm_eval import from_lm_eval
from relscale.model.decoder import init_model, logits
from relscale.model.hub import save_hf
from relscale.model.open import open_model
from relscale.plan.spec import ModelSpec
from relscale.text.tokenizer import train_tokenizer

_logits = eqx.filter_jit(logits)
ITEMS = [
    {"question": "The cat sat on the", "choices": ["mat", "moon", "naïve café"], "gold": 0},
    {"question": "Seven times two is ", "choices": ["fourteen", "ten", "cat"], "gold": 0},
    {"question": "", "choices": ["blue", "green", "wet"], "gold": 1},
    {"question": "The color of grass is", "choices": ["blue", "green", "wet"], "gold": 1},
]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
metadata: {{version: 3}}
"""
TASKS = {
    "choice": """
task: toy_choice
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "text": """
task: toy_text
output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: "{{question}} {{choices[gold]}}."
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
""",
    "answer": """
task: toy_answer
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
""",
    "group": """
group: toy
task: [toy_choice, toy_text]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights, and tasks on this disk."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, text in TASKS.items():
        head = COMMON.format(items=folder / "items.jsonl") if name != "group" else ""
        (folder / f"{name}.yaml").write_text(head + text)
    tokenizer = train_tokenizer([f"{i['question']} naïve café." for i in ITEMS] * 9, 285)
    spec = ModelSpec(32, 2, 2, 1, 16, 64, vocab=288)
    model = init_model(spec, key=jax.random.key(3))
    save_hf(model, folder / "toy", tokenizer=tokenizer, max_positions=48)
    return folder


@pytest.fixture(scope="module")
def opened(folder):
    return open_model(folder / "toy")


def log_probabilities(opened, tokens):
    """A whole text in one forward pass: row i predicts token i + 1."""
    padded = jnp.pad(
        jnp.asarray(tokens), (0, 64 - len(tokens))
    )  # causal: what follows changes nothing
    return np.asarray(jax.nn.log_softmax(_logits(opened.model, padded[None])[0, : len(tokens)]))


def by_hand(opened, context, continuation):
    """One log-likelihood in float64 sums, with nothing shared and nothing cached."""
    space = context[len(context.rstrip()) :]
    context, continuation = context.rstrip(), space + continuation
    encode = lambda text: opened.tokenizer.encode(text).ids  # noqa: E731
    whole, before = encode(context + continuation), encode(context)
    rows = [opened.start_token, *whole] if not before else whole
    count = len(whole) - len(before)
    table = log_probabilities(opened, rows)
    return sum(float(table[i - 1, rows[i]]) for i in range(len(rows) - count, len(rows)))


def evaluate(opened, folder, *tasks, **choices):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(
        HarnessModel(opened), tasks=list(tasks), task_manager=manager, bootstrap_iters=10, **choices
    )


def test_multiple_choice_is_scored_by_the_right_sums(folder, opened):
    """1e-4 nats: two float32 programs of this size differ by some 1e-6, a token more or less by units."""
    results = evaluate(opened, folder, "toy_choice", log_samples=True)
    samples = results["samples"]["toy_choice"]
    assert len(samples) == len(ITEMS)
    for sample in samples:
        item = ITEMS[sample["doc_id"]]
        found = [float(value) for ((value, _),) in sample["resps"]]
        hand = [by_hand(opened, item["question"], " " + c) for c in item["choices"]]
        np.testing.assert_allclose(found, hand, atol=1e-4)
        assert sample["acc"] == float(np.argmax(hand) == item["gold"])


def test_whole_texts_pay_for_each_token_once(folder, opened):
    """A text of 20 tokens and one of several windows; sums by hand, windows as the harness cuts them."""
    texts = [
        "The cat sat on the mat. naïve café.",
        "Seven times two is fourteen, the cat says. " * 9,
    ]
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    found = HarnessModel(opened).loglikelihood_rolling(requests, disable_tqdm=True)
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for text, value in zip(texts, found, strict=True):
        ids, total, seen = opened.tokenizer.encode(text).ids, 0.0, 0
        windows = get_rolling_token_windows(ids, opened.start_token, opened.window, 1)
        for context, targets in map(make_disjoint_window, windows):
            rows = [*context, *targets]
            table = log_probabilities(opened, rows)
            total += sum(float(table[i - 1, rows[i]]) for i in range(len(context), len(rows)))
            seen += len(targets)
        assert seen == len(ids)
        assert value == pytest.approx(total, abs=1e-4 * len(ids))
    assert len(opened.tokenizer.encode(texts[1]).ids) > 2 * opened.window


def test_generation_is_greedy_and_stops(opened):
    """Each token of a continuation is the likeliest after all before it, and nothing of a stop string is left."""
    contexts = ["The cat", "Seven times two is", "", "The color of grass " * 12]
    free = generate(opened, contexts, max_tokens=6)
    for context, text in zip(contexts, free, strict=True):
        rows = (opened.tokenizer.encode(context).ids or [opened.start_token])[
            -(opened.window - 6) :
        ]
        hand = []
        for _ in range(6):
            token = int(log_probabilities(opened, [*rows, *hand])[-1].argmax())
            if token == opened.end_token:
                break
            hand.append(token)
        assert text == opened.tokenizer.decode(hand)
    stop = free[0][len(free[0]) // 2 :][:1]
    assert stop and generate(opened, contexts[:1], until=[stop], max_tokens=6) == [
        free[0][: free[0].index(stop)]
    ]
    with pytest.raises(UserError, match="window of 48"):
        generate(opened, ["x"], max_tokens=48)


def test_the_end_token_ends_a_text(opened):
    """With the end token moved onto the likeliest one, nothing is written."""
    import dataclasses

    rows = opened.tokenizer.encode("The cat").ids
    likeliest = int(log_probabilities(opened, rows)[-1].argmax())
    ending = dataclasses.replace(opened, end_token=likeliest)
    assert generate(ending, ["The cat"], max_tokens=6) == [""]


def test_generation_in_a_task(folder, opened):
    results = evaluate(opened, folder, "toy_answer", log_samples=True, limit=2)
    written = [sample["resps"][0][0] for sample in results["samples"]["toy_answer"]]
    contexts = [item["question"] for item in ITEMS[:2]]
    assert written == generate(opened, contexts, until=["."], max_tokens=5)


def test_each_request_has_its_own_stop_and_length(opened):
    free = generate(opened, ["The cat"], max_tokens=6)[0]
    stop = free[len(free) // 2]
    wanted = [({"until": stop, "max_gen_toks": 6}, free[: free.index(stop)]),
              ({"until": ["no such text"], "max_gen_toks": 6}, free),
              ({"until": [], "max_new_tokens": 2}, generate(opened, ["The cat"], max_tokens=2)[0])]  # fmt: skip
    requests = [
        Instance("generate_until", {}, ("The cat", k), i) for i, (k, _) in enumerate(wanted)
    ]
    assert HarnessModel(opened).generate_until(requests) == [text for _, text in wanted]


def test_sampling_is_refused(opened):
    request = Instance("generate_until", {}, ("The", {"do_sample": True, "temperature": 0.7}), 0)
    with pytest.raises(UserError, match="only greedy"):
        HarnessModel(opened).generate_until([request])


def test_results_become_scores(folder, opened):
    results = evaluate(opened, folder, "toy", "toy_answer", limit=3)
    _, scores = from_lm_eval(results, runs={opened.name: "mine"})
    assert set(scores["run_id"]) == {"mine"} and set(scores["n"]) == {3}
    assert set(scores["task_version"]) == {"3, 0-shot"}
    places = set(zip(scores["task"], scores["group"], strict=True))
    assert places == {("toy", "choice"), ("toy", "text"), ("toy_answer", "all")}
    better = scores.set_index("metric")["higher_is_better"]
    assert better["acc"] and not better["bits_per_byte"] and not better["word_perplexity"]
    value = scores.set_index("metric").loc["acc", "value"]
    assert value == results["results"]["toy_choice"]["acc,none"]


def test_the_cache_of_the_harness_is_filled(folder, opened, tmp_path, monkeypatch):
    pytest.importorskip("sqlitedict")
    first = evaluate(opened, folder, "toy_choice", use_cache=str(tmp_path / "cache"))
    monkeypatch.setattr(HarnessModel, "loglikelihood", None)  # a second call would fail
    again = evaluate(opened, folder, "toy_choice", use_cache=str(tmp_path / "cache"))
    assert first["results"] == again["results"]


def test_command(folder):
    """The harness's own command line, with the model named on it, and the file that it writes."""
    done = subprocess.run(
        [sys.executable, "-m", "relscale.eval.harness", "--model", "relscale", "--model_args",
         f"path={folder / 'toy'},window=40", "--tasks", "toy_choice", "--include_path", str(folder),
         "--output_path", str(folder / "out"), "--limit", "2"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "toy_choice" in done.stdout
    _, scores = from_lm_eval(folder / "out", runs={"toy": "mine"} | {str(folder / "toy"): "mine"})
    assert set(scores["metric"]) == {"acc", "acc_norm"} and set(scores["n"]) == {2}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("dtype=float32", "give path=MODEL"),
        ("path=nowhere", "no such folder"),
        ("path={toy},pretrained=gpt2", "pretrained=: known are path"),
        ("path={toy},overflow=drop", "choose cut or refuse"),
        ("path={toy},window=4096", "2 to 48"),
    ],
)
def test_slips_of_model_args(folder, arguments, says):
    given = arguments.format(toy=folder / "toy")
    with pytest.raises(UserError, match=says):
        HarnessModel.create_from_arg_string(given, {"batch_size": 1, "device": "cuda:0"})


def test_a_slip_is_one_line_of_the_command(monkeypatch, capsys):
    def slip():
        assert sys.argv == ["lm-eval", "run"]
        raise UserError("no such\nfolder")

    monkeypatch.setattr(sys, "argv", ["python"])
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", slip)
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "relscale: no such folder\n"
