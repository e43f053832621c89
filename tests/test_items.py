"""Items read from every published layout; one question from two layouts is one item."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relscale.core import UserError
from relscale.eval.data_sets import DATA_SETS, load_items
from relscale.eval.items import MMLU_DOMAINS, RISK_CLUSTERS, Item

DATA = Path(__file__).parents[2] / "shared" / "data"  # beside the checkout
real = pytest.mark.skipif(not (DATA / "mmlu").is_dir(), reason=f"no real items in {DATA}")


def lines(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def table(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def arc(stem, texts, labels, key):
    choices = [{"text": t, "label": x} for t, x in zip(texts, labels, strict=True)]
    return {"id": "x", "question": {"stem": stem, "choices": choices}, "answerKey": key}


# Each data set in each layout: file below the folder -> row. All questions are made up here.
PIQA = {"goal": "Cool the tea. ", "sol1": "Blow on it.", "sol2": "Boil it."}
WINO = {"sentence": "Ann thanked Bea since _ had helped.", "option1": "Ann", "option2": "Bea"}
COPA = {"premise": "The lamp went out.", "choice1": "The oil was used up.", "choice2": "The oil was new.", "question": "cause"}  # fmt: skip
SWAG = {"activity_label": "Baking", "ctx_a": "[header] Mix it [title] Stir.", "ctx_b": "then she", "endings": ["eats [step] it.", "sleeps."]}  # fmt: skip
WSC = {"text": "Bob paid Charlie , because he was honest .", "label": True}
SPAN = {"span1_text": "Bob", "span2_text": "he", "span1_index": 0, "span2_index": 5}
SCHEMA = {"text": "Tom hit Jim. His head hurt.", "pronoun": "His", "pronoun_loc": 13, "options": ["Tom", "Jim"], "label": 1}  # fmt: skip
CHOICES = {"text": ["a seed", "a stone"], "label": ["1", "2"]}
LAYOUTS = {
    "arc-easy": {
        "arc_easy.jsonl": {"query": "Question: What grows?", "choices": ["a seed", "a stone"], "gold": 0},
        "ARC-V1/ARC-Easy/ARC-Easy-Test.jsonl": arc("What grows?", ["a seed", "a stone"], "AB", "A"),
        "ARC-Easy/test-00000-of-00001.parquet": {"question": "What grows?", "choices": CHOICES, "answerKey": "1"},
    },
    "openbookqa": {
        "openbook_qa.jsonl": {"query": "Rust is", "choices": ["iron", "gold", "tin", "ice"], "gold": 0},
        "Data/Main/test.jsonl": arc("Rust is", ["iron", "gold", "tin", "ice"], "ABCD", "A"),
        "openbookqa/main/test-0.parquet": {"question_stem": "Rust is", "choices": {"text": ["iron", "gold", "tin", "ice"], "label": list("ABCD")}, "answerKey": "A"},
    },
    "copa": {
        "copa.jsonl": {"query": "The lamp went out, because", "choices": ["the oil was used up.", "the oil was new."], "gold": 0},
        "COPA/val.jsonl": COPA | {"label": 0},
        "super_glue/copa/validation-0.parquet": COPA | {"label": 0},
    },
    "piqa": {
        "piqa.jsonl": {"query": "Question: Cool the tea.\n", "choices": ["Blow on it.", "Boil it."], "gold": 0},
        "piqa/data/valid.jsonl": PIQA,
        "piqa/plain_text/validation-0.parquet": PIQA | {"label": 0},
    },
    "hellaswag": {
        "hellaswag_val.jsonl": SWAG | {"label": 1},
        "hellaswag/data/validation-0.parquet": SWAG | {"label": "1"},
    },
    "winogrande": {
        "winogrande.jsonl": {"context_options": ["Ann thanked Bea since Ann", "Ann thanked Bea since Bea"], "continuation": "had helped.", "gold": 1},
        "winogrande_1.1/dev.jsonl": WINO | {"answer": "2"},
        "winogrande_xl/validation-0.parquet": WINO | {"answer": "2"},
    },
    "wsc": {
        "winograd_wsc.jsonl": {"context_options": ["Tom hit Jim. Tom's", "Tom hit Jim. Jim's"], "continuation": "head hurt.", "gold": 1},
        "wsc273/test-0.parquet": SCHEMA,
    },
    "wsc-superglue": {
        "WSC/val.jsonl": WSC | {"target": SPAN, "idx": 0},
        "wsc.fixed/validation-0.parquet": WSC | SPAN | {"label": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_question_is_one_item_in_every_layout(name, tmp_path):
    found = []
    for i, (file, row) in enumerate(LAYOUTS[name].items()):
        path = tmp_path / str(i) / file
        (table if path.suffix == ".parquet" else lines)(path, row)
        if file == "piqa/data/valid.jsonl":
            path.with_name("valid-labels.lst").write_text("0\n")
        from_folder, from_file = (load_items(name, p).items for p in (tmp_path / str(i), path))
        if file != "piqa/data/valid.jsonl":
            assert from_folder == from_file
        found.append(from_folder[name])
    assert len(set(found)) == 1, found


def test_texts_are_cleaned_as_the_harness_does(tmp_path):
    lines(tmp_path / "hellaswag_val.jsonl", LAYOUTS["hellaswag"]["hellaswag_val.jsonl"])
    (item,) = load_items("hellaswag", tmp_path).items["hellaswag"]
    # By hand from its rule: marks go, " [title]" is ". ", one pass over double spaces, second half capitalised.
    assert item.question == "Baking: Mix it. Stir. Then she"
    assert item.choices == ("eats it.", "sleeps.")
    lines(tmp_path / "WSC" / "val.jsonl", LAYOUTS["wsc-superglue"]["WSC/val.jsonl"])
    (item,) = load_items("wsc-superglue", tmp_path).items["wsc-superglue"]
    assert item.question == (
        "Passage: Bob paid Charlie, because *he* was honest.\n"
        'Question: In the passage above, does the pronoun "*he*" refer to "*Bob*"?\nAnswer:'
    )
    assert item.choices[item.gold] == "yes"


@pytest.mark.parametrize("off", [-1, 0, 1, 9])
def test_a_miscounted_pronoun_is_found_nearby(tmp_path, off):
    span = SPAN | {"span2_index": SPAN["span2_index"] + off}
    lines(tmp_path / "WSC" / "val.jsonl", WSC | {"target": span})
    (item,) = load_items("wsc-superglue", tmp_path).items["wsc-superglue"]
    assert "because *he* was" in item.question


@pytest.mark.parametrize(("index", "marked"), [(3, "because *he* was"), (9, "that *he* is")])
def test_the_nearest_of_two_pronouns_is_marked(tmp_path, index, marked):
    """Words 4 and 8, counted from 0; each count is off by one, away from the other."""
    text = "Bob paid Charlie because he was sure that he is honest ."
    row = {"text": text, "label": True, "target": SPAN | {"span2_index": index}}
    lines(tmp_path / "WSC" / "val.jsonl", row)
    (item,) = load_items("wsc-superglue", tmp_path).items["wsc-superglue"]
    assert marked in item.question and item.question.count("*he*") == 2  # passage and question


def test_capitals_of_names_inside_a_sentence(tmp_path):
    row = {"text": "The vase broke since it was thin.", "pronoun": "it", "pronoun_loc": 21, "options": ["The vase", "The air"], "label": 0}  # fmt: skip
    lines(tmp_path / "wsc273.jsonl", row)
    (item,) = load_items("wsc", tmp_path).items["wsc"]
    assert item.contexts == ("The vase broke since the vase", "The vase broke since the air")
    assert item.choices == ("was thin.",)


def mmlu(folder: Path, subject: str, header: bool = False, letters: bool = True) -> list[list[str]]:
    rows = [
        [f"{subject}: which, {i}?", "w, x", "None", ' "y" ', "z", "ABCD"[i] if letters else str(i)]
        for i in range(3)
    ]
    for split in ("test", "dev"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        with open(folder / split / f"{subject}_{split}.csv", "w", newline="") as file:
            top = [["question", "choice0", "choice1", "choice2", "choice3", "answer"]] * header
            own = [[f"{split}: {row[0]}", *row[1:]] for row in rows]
            csv.writer(file).writerows(top + own)
    return rows


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder like `cais/mmlu`: a card that names the configuration `all`, with rows of two subjects."""
    pytest.importorskip("datasets", reason="relscale[datasets] is not installed")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    root = tmp_path / "hub"
    card = "---\nconfigs:\n- config_name: all\n  data_files:\n"
    for split in ("test", "dev"):
        rows = [
            {
                "question": f"{split}: {q}",
                "subject": s,
                "choices": choices,
                "answer": "ABCD".index(answer),
            }
            for s in ("anatomy", "virology")
            for q, *choices, answer in mmlu(tmp_path / "csv", s)
        ]
        table(root / "all" / f"{split}-00000-of-00001.parquet", *rows)
        card += f"  - path: all/{split}-*\n    split: {split}\n"
    (root / "README.md").write_text(card + "---\n")
    return root


def test_mmlu_is_the_same_from_csv_table_and_by_name(hub, tmp_path):
    wanted = {"groups": ["virology", "anatomy"], "num_shots": 2}
    plain = load_items("mmlu", tmp_path / "csv", **wanted)
    for subject in wanted["groups"]:
        mmlu(tmp_path / "headed", subject, header=True, letters=False)
    for where in (tmp_path / "headed", hub, f"hf:{hub}"):
        other = load_items("mmlu", where, **wanted)
        assert (other.items, other.shots) == (plain.items, plain.shots)
    assert list(plain.items) == ["anatomy", "virology"]  # the order of the record, not of the wish
    item = plain.items["virology"][1]
    assert item == Item("virology/1", "virology", "test: virology: which, 1?", ("w, x", "None", ' "y" ', "z"), 1)  # fmt: skip
    assert [i.name for i in plain.shots["anatomy"]] == ["anatomy/0", "anatomy/1"]
    assert all(i.question.startswith("dev: ") for i in plain.shots["anatomy"])
    assert plain.summary()["examples"].tolist() == [2, 2]
    assert "licence MIT" in repr(plain) and "licence MIT" in plain._repr_html_()


def test_errors_of_names_are_one_line(hub):
    with pytest.raises(UserError, match="dataset .*hubx: .*check name, config") as caught:
        load_items("mmlu", f"hf:{hub}x", groups=["anatomy"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no items of abstract_algebra"):
        load_items("mmlu", f"hf:{hub}")


def test_risk_items_of_both_forms(tmp_path):
    said = {"question": "Is this you?\n\"Hm\"", "statement": "Hm", "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"}  # fmt: skip
    lines(tmp_path / "persona" / "no-shut-down.jsonl", said)
    (item,) = load_items("risk", tmp_path, groups=["no_shut_down"]).items["no_shut_down"]
    assert (item.choices, item.gold, item.group) == (("Yes", "No"), 1, "no_shut_down")
    lettered = {"question": "Go on?\n\nChoices:\n (A) Never\n (B) Yes, (A)lways\n (C) Later", "answer_matching_behavior": " (B)"}  # fmt: skip
    lines(tmp_path / "human_generated_evals" / "survival-instinct.jsonl", lettered)
    found = load_items("advanced-ai-risk", tmp_path, groups=["survival-instinct"])
    (item,) = found.items["survival-instinct"]
    assert (item.question, item.choices, item.gold) == (
        "Go on?", ("Never", "Yes, (A)lways", "Later"), 1,
    )  # fmt: skip


GOOD = {"query": "Question: What grows?", "choices": ["a seed", "a stone"], "gold": 0}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"choices": ["a seed"]}, "line 2: item arc-easy/1: 1 choices, 0 contexts; a choice is missing"),
        ({"choices": ["a seed", " "]}, "line 2: .* a choice is empty"),
        ({"choices": ["a seed", 3]}, "line 2: .* 3 is not a text"),
        ({"query": ""}, "line 2: .* empty"),
        ({"gold": 2}, "line 2: .* gold is 2, out of range for 2"),
        ({"gold": -1}, "line 2: .* gold is -1, out of range"),
        ({"gold": "a"}, "line 2: .* gold is 'a'"),
        ({"gold": True}, "line 2: .* gold is True"),
        ({"choices": None}, "line 2: a field is not as in simple rows"),
        ({"query": "\ud800"}, "line 2: .*surrogate"),
    ],
)  # fmt: skip
def test_faulty_rows_are_named(tmp_path, row, message):
    path = lines(tmp_path / "arc_easy.jsonl", GOOD, GOOD | row)
    with pytest.raises(UserError, match=message) as caught:
        load_items("arc-easy", tmp_path)
    assert str(path) in str(caught.value)


def test_faulty_files_are_named(tmp_path):
    path = lines(tmp_path / "arc_easy.jsonl", GOOD)
    path.write_text(path.read_text() + '{"query": "half')
    with pytest.raises(UserError, match=r"arc_easy.jsonl, line 2: not JSON"):
        load_items("arc-easy", tmp_path)
    lines(path, {"question": "?", "choices": ["a", "b"]})
    with pytest.raises(
        UserError, match="line 1: fields question, choices; looked for query, choices, gold; or"
    ):
        load_items("arc-easy", tmp_path)
    path.write_text("\n\n")
    with pytest.raises(UserError, match="no items of arc-easy"):
        load_items("arc-easy", tmp_path)
    lines(tmp_path / "copy" / "arc_easy.jsonl", GOOD)
    with pytest.raises(UserError, match="is there twice"):
        load_items("arc-easy", tmp_path)
    with pytest.raises(UserError, match="looked below it for hellaswag.jsonl, hellaswag_val.jsonl"):
        load_items("hellaswag", tmp_path)
    with pytest.raises(UserError, match="no folder .*give a folder, a file, hf"):
        load_items("arc-easy", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no data set 'arc'"):
        load_items("arc", tmp_path)
    with pytest.raises(UserError, match="one item or more"):
        load_items("arc-easy", tmp_path, limit=0)
    with pytest.raises(UserError, match="risk has no examples"):
        lines(
            tmp_path / "no-shut-down.jsonl", {"question": "?", "answer_matching_behavior": " Yes"}
        )
        load_items("risk", tmp_path, groups=["no_shut_down"], num_shots=1)


def test_answers_beside_the_questions(tmp_path):
    path = lines(tmp_path / "valid.jsonl", PIQA, PIQA)
    with pytest.raises(UserError, match="fields goal, sol1, sol2; looked for query"):
        load_items("piqa", tmp_path)
    labels = path.with_name("valid-labels.lst")
    labels.write_text("0\n")
    with pytest.raises(UserError, match="1 answers for 2 questions"):
        load_items("piqa", tmp_path)
    labels.write_text("0\n1\n")
    assert [i.gold for i in load_items("piqa", tmp_path).items["piqa"]] == [0, 1]
    lines(tmp_path / "winogrande" / "dev.jsonl", WINO)  # its answers count from 1
    (tmp_path / "winogrande" / "dev-labels.lst").write_text("2\n")
    assert load_items("winogrande", tmp_path).items["winogrande"][0].gold == 1
    lines(tmp_path / "winogrande" / "dev.jsonl", WINO | {"answer": "3"})
    (tmp_path / "winogrande" / "dev-labels.lst").unlink()
    with pytest.raises(UserError, match="answer '3' is none of 1, 2|gold is 3, out of range"):
        load_items("winogrande", tmp_path)


def test_faults_of_mmlu(tmp_path):
    mmlu(tmp_path, "anatomy")
    path = tmp_path / "test" / "anatomy_test.csv"
    whole = path.read_text()
    for change, message in (
        (("z,B", "B"), "line 2: 5 columns, not question, four choices and answer"),
        (("z,B", "z,E"), "line 2: answer 'E' is none of A, B, C, D"),
        (("z,B", "z,4"), "line 2: item anatomy/1: gold is 4"),
        (("w, x", ""), "line 1: item anatomy/0: its question or a choice is empty"),
    ):
        path.write_text(whole.replace(*change))
        with pytest.raises(UserError, match=message):
            load_items("mmlu", tmp_path, groups=["anatomy"])
    path.write_text(whole)
    with pytest.raises(UserError, match="3 examples of anatomy, 5 wanted"):
        load_items("mmlu", tmp_path, groups=["anatomy"], num_shots=5)
    with pytest.raises(UserError, match="no items of abstract_algebra.* and more"):
        load_items("mmlu", tmp_path)
    rows = [{"question": "?", "subject": "alchemy", "choices": list("abcd"), "answer": 0}]
    table(tmp_path / "t" / "all" / "test-0.parquet", *rows)
    with pytest.raises(UserError, match="unknown group 'alchemy' of mmlu"):
        load_items("mmlu", tmp_path / "t", groups=["anatomy"])


@real
def test_all_of_mmlu():
    """14,042 questions and 285 examples: the counts of the published files."""
    found = load_items("mmlu", DATA, num_shots=5)
    assert len(found) == 14_042 and len(found.items) == 57
    assert sum(map(len, found.shots.values())) == 285
    assert {len(i.choices) for items in found.items.values() for i in items} == {4}
    sizes = {d: sum(len(found.items[s]) for s in subjects) for d, subjects in MMLU_DOMAINS.items()}
    # Sums of the published subject sizes over the harness's domains.
    assert sizes == {"stem": 3153, "humanities": 4705, "social_sciences": 3077, "other": 3107}
    few = load_items("mmlu", DATA, groups=["anatomy"], limit=7)
    assert few.items["anatomy"] == found.items["anatomy"][:7]


@real
def test_all_risk_items():
    """27,534 statements, half of which say yes to the behaviour; clusters as in table A.1."""
    found = load_items("risk", DATA)
    items = [i for group in found.items.values() for i in group]
    assert len(items) == 27_534 and sum(i.gold for i in items) == 13_767
    with open(DATA / "persona_slugs.csv") as file:
        rows = list(csv.DictReader(file))
    assert {r["paper_slug"]: int(r["items"]) for r in rows} == {g: len(i) for g, i in found.items.items()}  # fmt: skip
    for cluster, slugs in RISK_CLUSTERS.items():
        assert [r["paper_slug"] for r in rows if r["cluster"] == cluster] == list(slugs)


@real
@pytest.mark.parametrize(
    "name, count",
    [("arc-easy", 2376), ("arc-challenge", 1172), ("copa", 100), ("piqa", 1838), ("winogrande", 1267)],
)  # fmt: skip
def test_all_simplified_items(name, count):
    found = load_items(name, DATA)
    assert len(found) == count and "simple" in found.layout
    questions = [i.question for i in found.items[name]]
    assert not any(q.startswith("Question:") or q != q.strip() for q in questions)
    if name == "copa":
        assert {q.rpartition(" ")[2] for q in questions} == {"because", "therefore"}
        assert not any(q[: -len(q.rpartition(" ")[2])].rstrip().endswith(",") for q in questions)


def test_every_set_says_its_licence():
    assert all(d.licence and d.source and "/" in d.hub for d in DATA_SETS.values())


def test_the_commonest_answer(tmp_path):
    """What always choosing one place would get right: two of three."""
    rows = [{"query": "Rust is", "choices": ["iron", "gold"], "gold": k} for k in (0, 1, 1)]
    frame = load_items("openbookqa", lines(tmp_path / "openbook_qa.jsonl", *rows)).summary()
    assert frame["commonest_answer"].tolist() == [2 / 3] and frame["items"].tolist() == [3]
