"""Prompts equal the harness's own templates; metrics equal float64 transcriptions of their definitions."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.eval.items import SHAPES, Item
from relscale.eval.prompts import FORMATS, METRICS, choice_metrics, requests_of, scored_options
from relscale.eval.tasks import TASKS

SPEC = importlib.util.find_spec("lm_eval")
HARNESS = Path(SPEC.submodule_search_locations[0]) / "tasks" if SPEC else None
harness = pytest.mark.skipif(HARNESS is None, reason="relscale[harness] is not installed")


def template(file: str) -> dict:
    """A task file of the installed harness, its Python functions loaded."""
    import yaml

    def function(loader, node):
        module, name = node.value.rsplit(".", 1)
        spec = importlib.util.spec_from_file_location(module, (HARNESS / file).parent / f"{module}.py")  # fmt: skip
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", function)
    return yaml.load((HARNESS / file).read_text(), Loader)


def filled(text, row: dict):
    """What the harness makes of a template: a function, a field's name, or Jinja, as in its `apply_template`."""
    from jinja2 import BaseLoader, Environment, StrictUndefined

    if callable(text):
        return text(row)
    if text in row:
        return row[text]
    env = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    return env.from_string(text).render(row)


MMLU = {
    "question": " Which, \n of these? ",
    "choices": [" w, x", "None", 'y "é"', "z"],
    "answer": 2,
}
ARC = {
    "question": "What grows?",
    "choices": {"text": ["a seed", "a stone"], "label": ["A", "B"]},
    "answerKey": "B",
}
OBQA = {
    "question_stem": "Rust is",
    "choices": {"text": ["iron", "gold"], "label": ["A", "B"]},
    "answerKey": "A",
}
PIQA = {"goal": "Cool the tea.", "sol1": "Blow.", "sol2": "Boil it.", "label": 1}


@harness
@pytest.mark.parametrize(
    "task, file, shape, row",
    [
        ("mmlu-mcq", "mmlu/default/_default_template_yaml", "MMLU", MMLU),
        ("mmlu-continuation", "mmlu/continuation/_continuation_template_yaml", "MMLU", MMLU),
        ("arc-easy", "arc/arc_easy.yaml", "ARC table", ARC),
        ("openbookqa", "openbookqa/openbookqa.yaml", "OpenBookQA table", OBQA),
        ("piqa", "piqa/piqa.yaml", "PIQA", PIQA),
    ],
)
def test_prompts_are_the_harness_templates(task, file, shape, row):
    import ast

    question, choices, gold, _ = SHAPES[shape][1](row)
    item, task = Item("x/0", "x", question, tuple(choices), gold), TASKS[task]
    theirs = template(file)
    options = theirs["doc_to_choice"]
    options = options if isinstance(options, list) else ast.literal_eval(filled(options, row))
    asked = requests_of(item, format=task.format, delimiter=task.delimiter)
    assert [r.context for r in asked] == [filled(theirs["doc_to_text"], row)] * len(options)
    assert [r.continuation for r in asked] == [" " + o for o in options]


@harness
@pytest.mark.parametrize("subject", ["abstract_algebra", "high_school_us_history"])
@pytest.mark.parametrize("task, folder", [("mmlu-mcq", "default"), ("mmlu-continuation", "continuation")])  # fmt: skip
def test_descriptions_are_the_harness_ones(task, folder, subject):
    item = Item("x/0", subject, "?", ("a", "b"), 0)
    ours = requests_of(item, format=TASKS[task].format, description=TASKS[task].description)
    theirs = template(f"mmlu/{folder}/mmlu_{subject}.yaml")["description"]
    assert ours[0].context.startswith(theirs)


@harness
@pytest.mark.parametrize("question", ["cause", "effect"])
def test_copa_is_the_harness_one_but_for_its_second_space(question):
    row = {"premise": "The lamp went out. ", "choice1": "The oil was old.", "choice2": "It fell.", "question": question, "label": 0}  # fmt: skip
    theirs = template("super_glue/copa/default.yaml")
    text, choices, gold, _ = SHAPES["COPA"][1](row)
    asked = requests_of(Item("x", "x", text, tuple(choices), gold), format="bare", delimiter="  ")
    assert asked[0].context == filled(theirs["doc_to_text"], row)
    assert [r.continuation for r in asked] == [
        " " + c for c in filled(theirs["doc_to_choice"], row)
    ]


@harness
def test_schemas_are_the_harness_ones():
    row = {"sentence": "Ann thanked Bea since _ had helped.", "option1": "Ann", "option2": "Bea", "answer": "2"}  # fmt: skip
    theirs = template("winogrande/default.yaml")
    _, choices, gold, contexts = SHAPES["Winogrande"][1](row)
    asked = requests_of(Item("x", "x", "", tuple(choices), gold, tuple(contexts)), format="partial")
    assert [r.context for r in asked] == filled(theirs["doc_to_choice"], row)
    assert {r.continuation for r in asked} == {" " + filled(theirs["doc_to_target"], row)}
    assert gold == filled(theirs["doc_to_text"], row)

    row = {"text": "Tom hit Jim.  His head hurt, and it bled.", "pronoun": "it", "pronoun_loc": 32, "options": ["The head", "Jim"], "label": 0}  # fmt: skip

    class Rows(list):
        def map(self, change):
            return [change(r) for r in self]

    (theirs,) = template("wsc273/default.yaml")["process_docs"](
        Rows([row | {"options": list(row["options"])}])
    )
    _, _, _, contexts = SHAPES["WSC273"][1](row)
    assert contexts == [theirs["text"][:32] + o for o in theirs["options"]]


@harness
def test_cleaning_is_the_harness_one():
    pytest.importorskip("datasets")
    row = {"activity_label": "Baking", "ctx_a": "[header] How [title] Mix  it.", "ctx_b": "then SHE", "endings": [" [step] Eat.  [substeps] Sleep.", "a"], "label": "1"}  # fmt: skip

    class Rows(list):
        def map(self, change):
            return [change(r) for r in self]

    (theirs,) = template("hellaswag/hellaswag.yaml")["process_docs"](Rows([row]))
    question, choices, gold, _ = SHAPES["HellaSwag"][1](row)
    assert (question, choices, gold) == (theirs["query"], theirs["choices"], theirs["gold"])


@harness
def test_yes_no_wsc_is_the_harness_one():
    row = {"text": 'Bob said " hi " , ( did n\'t he ) to Al , as he was kind .', "span1_text": "Bob", "span2_text": "he", "span1_index": 0, "span2_index": 15, "label": 1}  # fmt: skip
    assert row["text"].split()[15] == "he"
    theirs = template("super_glue/wsc/default.yaml")
    question, choices, gold, _ = SHAPES["WSC table"][1](row)
    assert question == filled(theirs["doc_to_text"], row)
    assert (choices, gold) == (theirs["doc_to_choice"], 1)


ITEM = Item("a/0", "abstract_algebra", " What? ", ("one", "two"), 1)


@pytest.mark.parametrize(
    "format, answer, shown",
    [
        ("mcq", "B", "What?\nA. one\nB. two\nAnswer:"),
        ("mcq-text", "two", "What?\nA. one\nB. two\nAnswer:"),
        ("modified-mcq", "B. two", "What?\nA. one\nB. two\nAnswer:"),
        ("continuation", "two", "Question: What?\nAnswer:"),
        ("bare", "two", " What? "),
    ],
)
def test_examples_are_solved_and_ended_by_an_empty_line(format, answer, shown):
    asked = requests_of(ITEM, [ITEM, ITEM], format, description="On {group}.\n\n")
    shot = f"{shown} {answer}\n\n"
    assert asked[1] == ("On abstract algebra.\n\n" + shot + shot + shown, " " + answer)


@pytest.mark.parametrize("delimiter", [" ", "", "  "])
def test_examples_keep_their_own_answer_their_order_and_the_delimiter(delimiter):
    shots = [
        Item("a/1", "a", "Who?", ("red", "blue"), 0),
        Item("a/2", "a", "Why?", ("up", "so"), 1),
    ]
    asked = requests_of(ITEM, shots, "continuation", delimiter=delimiter)
    shown = "Question: {}\nAnswer:{}{}\n\n"
    before = shown.format("Who?", delimiter, "red") + shown.format("Why?", delimiter, "so")
    assert [r.context for r in asked] == [before + "Question: What?\nAnswer:"] * 2
    assert [r.continuation for r in asked] == [delimiter + "one", delimiter + "two"]


def test_examples_of_schemas_are_their_right_sentences():
    item = Item("w", "w", "", ("was kind.",), 1, ("as Ann", "as Bea"))
    asked = requests_of(item, [item], "partial")
    assert asked[0] == ("as Bea was kind.\n\nas Ann", " was kind.")
    assert scored_options(item, "partial") == ("was kind.",) * 2


def test_formats_that_do_not_fit_are_refused():
    for format in FORMATS:
        if format not in ("partial", "yes-no"):
            assert len(requests_of(ITEM, format=format)) == 2
    with pytest.raises(UserError, match="needs an item with contexts"):
        requests_of(ITEM, format="partial")
    with pytest.raises(UserError, match="use one of mcq, mcq-text"):
        requests_of(ITEM, format="essay")
    with pytest.raises(UserError, match="27 choices for 26 letters"):
        requests_of(Item("x", "x", "?", tuple("abcdefghijklmnopqrstuvwxyzA"), 0), format="mcq")


def transcribed(lls, options, k, scored):
    """The definitions, one by one: the harness's `process_results`, then the released suite's, then ours."""
    lls, chars = np.array(lls, np.float64), np.array([float(len(o)) for o in options])
    n = np.array([max(1, len(o.encode("utf-8"))) for o in options], np.float64)
    z = math.log(sum(math.exp(x) for x in lls))
    nats, bits = np.exp(lls / n), np.exp(lls / (n * math.log(2)))
    return {
        "accuracy": float(np.argmax(lls) == k),
        "accuracy_per_char": float(np.argmax(lls / chars) == k),
        "accuracy_per_byte": float(np.argmax(lls / n) == k),
        "log_probability": lls[k],
        "choice_log_probability": lls[k] - z,
        "choice_probability": math.exp(lls[k] - z),
        "choice_probability_nats": nats[k] / nats.sum(),
        "choice_probability_bits": bits[k] / bits.sum(),
        "choice_log_probability_bits": math.log(bits[k] / bits.sum() + 1e-30),
        "bits_per_byte": -lls[k] / (scored[k] * math.log(2)),
        "bits_per_option_byte": -lls[k] / (n[k] * math.log(2)),
    }


texts = st.lists(st.text("aé語 b", min_size=1, max_size=12), min_size=2, max_size=5)


@st.composite
def questions(draw):
    options = draw(texts)
    size = {"min_size": len(options), "max_size": len(options)}
    nats = draw(st.lists(st.floats(-80, -0.01), unique=True, **size))
    return nats, options, draw(st.integers(0, len(options) - 1))


@given(questions(), st.sampled_from(["", " ", "  "]))
def test_metrics_are_their_definitions(question, delimiter):
    """1e-9 relative: two orders of the same float64 sums."""
    nats, options, gold = question
    found = choice_metrics(nats, options, gold, delimiter=delimiter)
    scored = [len((delimiter + o).encode()) for o in options]
    for name, value in transcribed(nats, options, gold, scored).items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    again = choice_metrics(nats, options, gold, num_bytes=scored, delimiter="ignored")
    assert again == found and list(found) == list(METRICS)


@given(questions(), st.floats(-50, 50))
def test_among_options_only_differences_count(question, shift):
    """1e-9: rounding of nats up to 130 in float64 is below 1e-13."""
    nats, options, gold = question
    one, other = (choice_metrics([x + s for x in nats], options, gold) for s in (0, shift))
    for name in ("choice_log_probability", "choice_probability"):
        assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-9)


@given(questions())
def test_probabilities_of_the_options_add_up_to_one(question):
    nats, options, _ = question
    rows = [choice_metrics(nats, options, k) for k in range(len(options))]
    for name in ("choice_probability", "choice_probability_nats", "choice_probability_bits"):
        assert sum(r[name] for r in rows) == pytest.approx(1, abs=1e-12)
    assert sum(r["accuracy"] for r in rows) == 1


@given(questions(), st.randoms())
def test_the_order_of_options_does_not_matter(question, random):
    nats, options, gold = question
    order = list(range(len(options)))
    random.shuffle(order)
    one = choice_metrics(nats, options, gold)
    other = choice_metrics([nats[i] for i in order], [options[i] for i in order], order.index(gold))
    for name in METRICS:
        if not name.startswith("accuracy_per"):  # equal quotients go to the first
            assert one[name] == pytest.approx(other[name], rel=1e-12, abs=1e-12)


def test_directions_follow_the_right_option():
    """A likelier right option never makes a metric worse in its own direction."""
    options = ["one", "a longer two", "three"]
    for gold in range(3):
        ladder = []
        for lift in np.linspace(0, 9, 19):
            nats = np.array([-6.0, -11.0, -7.0])
            nats[gold] += min(lift, -nats[gold])
            ladder.append(choice_metrics(nats, options, gold))
        for name, metric in METRICS.items():
            steps = np.diff([row[name] for row in ladder])
            assert (steps >= 0).all() if metric.higher_is_better else (steps <= 0).all(), name


def test_characters_and_bytes_differ():
    """Two bytes a letter: per character the second wins, per byte the first."""
    found = choice_metrics([-3.0, -4.0], ["éé", "abc"], 1)
    assert (found["accuracy_per_char"], found["accuracy_per_byte"]) == (1, 0)


def test_faulty_likelihoods_are_refused():
    with pytest.raises(UserError, match="3 log-likelihoods, 2 options"):
        choice_metrics([0, 0, 0], ["a", "b"], 0)
    with pytest.raises(UserError, match="gold among them"):
        choice_metrics([0, 0], ["a", "b"], 2)
    with pytest.raises(UserError, match="not finite"):
        choice_metrics([-math.inf, 0], ["a", "b"], 1)
    with pytest.raises(UserError, match="one is empty"):
        choice_metrics([-1, -1], ["a", ""], 0)
