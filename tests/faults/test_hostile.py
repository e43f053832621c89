"""Inputs that are wrong, absurd or hostile: each is read as what it is, or refused in a line that names what is wrong.

Every fuzzed reader obeys one rule: it returns, or it raises `UserError` with a message of one line and bounded length.
No other exception, no file opened, no memory that the input's size does not explain.
"""

import copy
import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.laws.relative import RelativeFit, fit_relative
from relscale.lm_eval import from_lm_eval
from relscale.plan.recipes import SMALL, load_plan, plan_isoflop, save_plan
from relscale.plan.spec import ModelSpec, OptimSpec, RunSpec, from_json, to_dict, to_json
from relscale.study import StudyConfig

LONGEST = 900  # characters of a message: a few lines of a terminal
QUICK = timedelta(seconds=3)  # a case takes milliseconds; the machine may be busy


def fuzz(examples):
    """Settings of a fuzz: reproducible, and each case within the deadline."""
    return settings(
        max_examples=examples,
        deadline=QUICK,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def refused(read, *given):
    """Whether a reader refuses; anything but an answer or a short message of one line fails the test."""
    try:
        value = read(*given)
    except UserError as error:
        said = str(error)
        assert 0 < len(said) < LONGEST and "\n" not in said, said[:2000]
        said.encode()  # can be printed
        return True, said
    return False, value


# ---- fuzzing of JSON: trees that are wrong in a few places, and texts that are no longer JSON


def nest(depth):
    """Lists in lists."""
    value = 0
    for _ in range(depth):
        value = [value]
    return value


ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**64), 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308,
         float("nan"), float("inf"), -float("inf"), "", " ", ".", "..", "../../x", "../../../etc/passwd", "/etc/passwd",
         "a/b", "a\\b", "C:\\x", "a\0b", "a\nb", "\ud800", "é" * 40, "\u202e", "x" * 129, "y" * 5000, "nan", "__class__",
         "hf:../x", "code", [], {}, [[]], [{}], {"": 0}, {"a\nb": 1}, ["code", "code"], [["../x", 1.0]], [["a", "b"]]]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.integers(10, 90).map(nest),
).map(copy.deepcopy)  # fmt: skip


@st.composite
def mutated(draw, base):
    """A JSON tree with one to three changes at random places."""
    tree = [copy.deepcopy(base)]
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        key = 0
        while isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 5)):
            node = node[key]
            keys = sorted(node) if isinstance(node, dict) else range(len(node))
            key = draw(st.sampled_from(list(keys)))
        kind = draw(st.sampled_from(["replace", "replace", "delete", "add", "repeat", "swap"]))
        if kind == "delete" and node is not tree:
            del node[key]
        elif kind == "add" and isinstance(node[key], dict):
            node[key][draw(st.text(max_size=8))] = draw(ODD)
        elif kind == "repeat" and isinstance(node[key], list) and node[key]:
            node[key].append(copy.deepcopy(draw(st.sampled_from(node[key]))))
        elif kind == "swap" and isinstance(node[key], int | float):
            node[key] = draw(
                st.sampled_from([-node[key], str(node[key]), [node[key]], node[key] * 10**9])
            )
        else:
            node[key] = draw(ODD)
    return json.dumps(tree[0])


@st.composite
def torn(draw, text):
    """A JSON text that is cut, spliced, or has a name twice."""
    kind = draw(st.sampled_from(["cut", "splice", "insert", "twice", "deep", "bom"]))
    at, to = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    if kind == "cut":
        return text[:at]
    if kind == "splice":
        return text[:at] + text[to:]
    if kind == "insert":
        return text[:at] + draw(st.text(max_size=5)) + text[at:]
    if kind == "twice":
        start = text.find('"', at)
        end = text.find(":", start)
        return (
            text if min(start, end) < 0 else f"{text[:start]}{text[start:end]}: 7, {text[start:]}"
        )
    if kind == "deep":
        return text[:at] + "[" * draw(st.sampled_from([900, 5000, 200_000])) + text[at:]
    return "\ufeff" + text


def hostile(text):
    """Changes of either kind."""
    return st.one_of(mutated(json.loads(text)), mutated(json.loads(text)), torn(text))


# ---- plans and records


WATCHED = ("open", "os.", "shutil.", "subprocess.", "socket.", "tempfile.", "glob.", "import")
_seen, _watching = [], []


def _audit(name, arguments):
    # Threads that other tests left, such as a monitor of Dask, read /proc as they like.
    if threading.get_ident() in _watching and name.startswith(WATCHED):
        _seen.append((name, str(arguments)[:200]))


sys.addaudithook(_audit)  # for the life of the process, and silent outside the block below


@contextmanager
def touches_nothing():
    """Fail when the block opens a file, lists a folder, starts a process or imports."""
    _seen.clear()
    _watching.append(threading.get_ident())
    try:
        yield
    finally:
        _watching.pop()
    assert not _seen, _seen[:3]


PLAN = save_plan(plan_isoflop([1e11, 3e11], SMALL, mixture=[("code", 0.5), ("docs", 0.5)]))
RUN = to_json(load_plan(PLAN).runs[0])
counts = {"read": 0, "refused": 0}


@fuzz(1200)
@given(hostile(PLAN))
def test_fuzzed_plan(text):
    with touches_nothing():
        no, value = refused(load_plan, text)
    counts["refused" if no else "read"] += 1
    if not no:
        assert load_plan(save_plan(value)) == value
        assert len({run.run_id for run in value.runs}) == len(value.runs)


def test_the_fuzz_of_plans_is_neither_idle_nor_blind():
    """At least 1,000 cases, most refused, and some read: changes that make another plan."""
    assert counts["refused"] + counts["read"] >= 1000
    assert counts["refused"] > 500 and counts["read"] > 20, counts


@pytest.mark.parametrize("kind", [ModelSpec, OptimSpec, RunSpec])
def test_fuzzed_record(kind):
    base = {RunSpec: json.loads(RUN), ModelSpec: to_dict(load_plan(PLAN).runs[0].model)}
    base[OptimSpec] = to_dict(load_plan(PLAN).runs[0].optim)

    @fuzz(250)
    @given(hostile(json.dumps(base[kind])))
    def check(text):
        with touches_nothing():
            no, value = refused(from_json, kind, text)
        assert no or from_json(kind, to_json(value)) == value

    check()


@fuzz(300)
@given(hostile(to_json(StudyConfig())))
def test_fuzzed_study(text):
    """The names of domains are asked whether they are folders, so this one may look at the disk."""
    no, value = refused(from_json, StudyConfig, text)
    assert no or from_json(StudyConfig, to_json(value)) == value


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "../../x"},
        {"run_id": "/etc/passwd"},
        {"run_id": "a\0b"},
        {"run_id": ".."},
        {"run_id": "x" * 129},
        {"run_id": "x" * 10**6},
        {"run_id": "a\n"},
        {"corpus": "../x"},
        {"mixture": [["../../etc", 1.0]]},
        {"num_steps": 10**30},
        {"budget_flops": 10**400},
        {"model": nest(80)},
    ],
    ids=lambda change: f"{change!s:.40}",
)
def test_a_run_that_would_leave_its_store(change):
    no, said = refused(from_json, RunSpec, json.dumps(json.loads(RUN) | change))
    assert no, change
    assert next(iter(change)).removesuffix("s") in said or "domain" in said


def test_a_name_that_stands_twice_is_refused():
    twice = RUN.replace('"run_id"', '"run_id": "other", "run_id"', 1)
    assert refused(from_json, RunSpec, twice) == (
        True,
        "RunSpec: not valid JSON (key 'run_id' stands twice in a record)",
    )


# ---- results and tables


def fit():
    """A small relative fit."""
    flops = np.geomspace(1e18, 1e20, 5)
    rows = [
        {"group": g, "train_flops": f, "value": (2 + i * 0.1) * f ** -(0.05 + 0.01 * i)}
        for i, g in enumerate(("a", "b"))
        for f in flops
    ]
    return fit_relative(pd.DataFrame(rows), baseline="a")


RESULT = fit().to_json()


@fuzz(300)
@given(hostile(RESULT))
def test_fuzzed_result(text):
    no, value = refused(RelativeFit.from_json, text)
    assert no or isinstance(value, RelativeFit)


LM_EVAL = {
    "results": {
        "mmlu": {"alias": "mmlu", "acc,none": 0.4, "acc_stderr,none": 0.01},
        "mmlu_stem": {"alias": " - stem", "acc,none": 0.35, "acc_stderr,none": 0.02},
    },
    "groups": {"mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.01}},
    "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": []},
    "higher_is_better": {"mmlu": {"acc": True}, "mmlu_stem": {"acc": True}},
    "versions": {"mmlu": 2, "mmlu_stem": 1},
    "n-shot": {"mmlu": 0, "mmlu_stem": 0},
    "n-samples": {"mmlu_stem": {"original": 10, "effective": 10}},
    "config": {"model_args": {"pretrained": "m"}},
    "model_name": "m",
}


def test_fuzzed_harness_results(tmp_path):
    file = tmp_path / "results_x.json"

    @fuzz(250)
    @given(hostile(json.dumps(LM_EVAL)))
    def check(text):
        file.write_text(text, "utf-8", errors="surrogatepass")
        no, value = refused(lambda: from_lm_eval(file, runs={"m": "run"}))
        event("refused" if no else "read")
        assert no or set(value.scores["run_id"]) == {"run"}

    check()
    file.write_text(
        json.dumps(LM_EVAL | {"group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu"]}})
    )
    refused(lambda: from_lm_eval(file, runs={"m": "run"}))  # groups that hold each other
    file.unlink()
    file.mkdir()
    assert refused(lambda: from_lm_eval(tmp_path, runs={"m": "run"}))[0]


# ---- stores of tokens


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from relscale.text.documents import Document
    from relscale.text.shards import write_store
    from relscale.text.tokenizer import train_tokenizer

    texts = ["the quick brown fox", "jumps over the lazy dog"] * 20
    tokenizer = train_tokenizer(texts, 280)
    documents = [Document("d", str(i), text) for i, text in enumerate(texts)]
    return write_store(tmp_path_factory.mktemp("stores") / "s", documents, tokenizer).folder


def test_fuzzed_store(store, tmp_path):
    from relscale.text.tokens import open_store

    text, folder = (store / "meta.json").read_text(), tmp_path / "s"
    folder.mkdir()

    @fuzz(300)
    @given(hostile(text))
    def check(changed):
        (folder / "meta.json").write_text(changed, "utf-8", errors="surrogatepass")
        no, value = refused(open_store, folder)
        assert no or value.folder == folder

    check()
    for extra in ({"folder": "/etc"}, {"folder": "../../x"}, {"tokens": [1]}, {"num_tokens": True}):
        (folder / "meta.json").write_text(json.dumps(json.loads(text) | extra))
        assert refused(open_store, folder)[0], extra


def test_store_of_links(store, tmp_path):
    """A store whose arrays, or whose card, are links to other places."""
    from relscale.text.tokens import open_store

    for name in ("tokens", "offsets", "meta.json"):
        folder = tmp_path / name
        folder.mkdir()
        for other in ("tokens", "offsets", "token_bytes", "meta.json"):
            if other == name:
                (folder / other).symlink_to(store / other)
            elif other == "meta.json":
                (folder / other).write_text((store / other).read_text())
        no, said = refused(open_store, folder)
        assert no and "symbolic link" in said and name in said


# ---- models and tokenizers


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 300, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1e6, "rope_scaling": None,
    "layer_types": ["full_attention", "full_attention"], "use_sliding_window": False, "max_window_layers": 28,
    "partial_rotary_factor": 1, "attention_bias": False,
}  # fmt: skip


def test_fuzzed_config():
    from relscale.model.hf_config import spec_of_config

    @fuzz(300)
    @given(mutated(CONFIG))
    def check(text):
        no, value = refused(spec_of_config, json.loads(text))
        assert no or isinstance(value, ModelSpec)

    check()


def safetensors(header, data=b"", length=None):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


WORD = "model.embed_tokens.weight"
ABSURD = {
    "empty": b"",
    "a header of 2^60 bytes": safetensors({WORD: one()}, bytes(8), 2**60),
    "a header of 2^64 - 1 bytes": safetensors({WORD: one()}, bytes(8), 2**64 - 1),
    "a header past the end": safetensors({WORD: one()}, bytes(8), 10**6),
    "a header of nothing": safetensors(b"", b"", 0),
    "no JSON": safetensors(b"{" * 64),
    "deep JSON": safetensors(b'{"a":' + b"[" * 100_000),
    "a list": safetensors([1, 2]),
    "outside the file": safetensors({WORD: one(end=10**9, shape=(250_000_000,))}, bytes(8)),
    "a hole": safetensors({WORD: one(start=8, end=16)}, bytes(16)),
    "overlapping": safetensors({"a": one(), "b": one(start=4, end=12)}, bytes(12)),
    "backwards": safetensors({WORD: one(start=8, end=0)}, bytes(8)),
    "negative offsets": safetensors({WORD: one(start=-8, end=0)}, bytes(8)),
    "wrong type": safetensors({WORD: one(dtype="PICKLE")}, bytes(8)),
    "integers": safetensors({WORD: one(dtype="I32")}, bytes(8)),
    "another size": safetensors({WORD: one(shape=(3,))}, bytes(8)),
    "negative shape": safetensors({WORD: one(shape=(-2,))}, bytes(8)),
    "a product that overflows": safetensors({WORD: one(shape=(2**33, 2**33))}, bytes(8)),
    "a product that wraps to 8": safetensors({WORD: one(shape=(2**62 + 1, 4))}, bytes(8)),
    "a tensor twice": safetensors(
        b'{"%b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "%b": {"dtype": "F32", "shape": [2], '
        b'"data_offsets": [0, 8]}}' % (WORD.encode(), WORD.encode()), bytes(8)),
    "a name of a megabyte": safetensors({"n" * 10**6: one()}, bytes(8)),
    "a name of two lines": safetensors({"a\nb": one()}, bytes(8)),
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """A folder with a configuration, for weights to be put into."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_weights(model, case):
    from relscale.model.hub import load_hf

    (model / "model.safetensors").write_bytes(ABSURD[case])
    no, said = refused(load_hf, model)
    assert no and str(model) in said


@pytest.mark.parametrize(
    "place", ["../../etc/passwd", "/etc/passwd", "../x.safetensors", "a/b.safetensors", "", 7, None, "x\0.safetensors",
              "a\nb.safetensors", ".safetensors", "..safetensors"], ids=repr,
)  # fmt: skip
def test_index_that_points_elsewhere(model, place):
    from relscale.model.hub import load_hf

    index = {"weight_map": {WORD: place}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    no, said = refused(load_hf, model)
    assert no and "index.json" in said


def test_weights_that_are_links(model, tmp_path):
    """Out of the folder: refused. Into the blobs beside it, as the hub's cache does: read."""
    from relscale.model.hub import load_hf

    outside = tmp_path / "elsewhere.safetensors"
    outside.write_bytes(safetensors({WORD: one()}, bytes(8)))
    (model / "model.safetensors").symlink_to(outside)
    no, said = refused(load_hf, model)
    assert no and "outside the folder" in said
    cache = tmp_path / "models--o--n"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "rev").mkdir(parents=True)
    (cache / "blobs" / "abc").write_bytes(outside.read_bytes())
    (cache / "snapshots" / "rev" / "model.safetensors").symlink_to("../../blobs/abc")
    (cache / "snapshots" / "rev" / "config.json").write_text(json.dumps(CONFIG))
    no, said = refused(load_hf, cache / "snapshots" / "rev")
    assert no and "outside" not in said  # it was opened, and holds too little


def tokenizer_json():
    from relscale.text.tokenizer import train_tokenizer

    return train_tokenizer(["a b c the quick brown fox"], 258).to_str()


TOKENIZERS = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: "",
    "a list": lambda whole: "[]",
    "deep": lambda whole: '{"model": ' + "[" * 200_000,
    "an id of 4e9": lambda whole: whole.replace('"!": 1,', '"!": 4000000000,').replace('"!":1,', '"!":4000000000,'),
    "an id below 0": lambda whole: whole.replace('"!": 1,', '"!": -1,').replace('"!":1,', '"!":-1,'),
    "an id twice": lambda whole: whole.replace('"!":1,', '"!":2,'),
    "a merge of nothing": lambda whole: whole.replace('"merges":[', '"merges":[["zzzz","yyyy"],'),
    "a model of another kind": lambda whole: whole.replace('"type":"BPE"', '"type":"pickle"'),
    "a vocabulary that is a list": lambda whole: json.dumps(json.loads(whole) | {"model": {"type": "BPE", "vocab": []}}),
    "an added token of id 2^31": lambda whole: whole.replace('"id":0', '"id":2147483647'),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENIZERS)
def test_absurd_tokenizer(tmp_path, case):
    from relscale.text.tokenizer import load_tokenizer, token_num_bytes

    file, whole = tmp_path / "tokenizer.json", tokenizer_json()
    changed = TOKENIZERS[case](whole)
    assert changed != whole
    file.write_text(changed)
    no, value = refused(load_tokenizer, file)
    if (
        not no
    ):  # the library takes an added token's id from the vocabulary, and lets two tokens share one
        assert len(token_num_bytes(value)) <= 258
        assert case in ("an id twice", "an added token of id 2^31")


def test_fuzzed_tokenizer(tmp_path):
    from relscale.text.tokenizer import load_tokenizer, token_num_bytes

    file, whole = tmp_path / "tokenizer.json", json.loads(tokenizer_json())
    whole["model"]["vocab"] = dict(list(whole["model"]["vocab"].items())[:12])
    whole["model"]["merges"] = []

    @fuzz(150)
    @given(hostile(json.dumps(whole)))
    def check(text):
        file.write_text(text, "utf-8", errors="surrogatepass")
        no, value = refused(load_tokenizer, file)
        if not no:
            refused(token_num_bytes, value)

    check()


def test_a_tokenizer_that_is_no_file(tmp_path):
    from relscale.text.tokenizer import load_tokenizer

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "absent", "a\0b"):
        no, said = refused(load_tokenizer, path)
        assert no and "tokenizer.json" in said


# ---- folders that are links, lines that are torn


def test_checkpoints_behind_a_link(tmp_path):
    """Old checkpoints are deleted, so a link would delete in another place."""
    from relscale.model.checkpoints import Checkpoints

    other = tmp_path / "precious"
    (other / "7").mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(other)
    no, said = refused(Checkpoints, tmp_path / "checkpoints")
    assert no and "symbolic link" in said and (other / "7").is_dir()


@pytest.mark.parametrize(
    "line", [b'{"step": 10, "loss": 2', b"[" * 100_000, b"\xff\xfe", b'{"loss": 1}', b'{"step": "10"}', b"7", b"",
             b'{"step": 1' + b"0" * 5000 + b"}"], ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_torn_metrics(tmp_path, line):
    from relscale.model.training import read_metrics

    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 5, "loss": 3}\n' + line + b"\n")
    no, said = refused(read_metrics, tmp_path)
    assert no and "metrics.jsonl, line 2" in said


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'{"text": 1' + b"0" * 5000 + b"}", b"\xff", b"{", b'{"a\\nb": 1}', b"[]",
             json.dumps({f"k{i}": i for i in range(50_000)}).encode()], ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_hostile_documents(tmp_path, line):
    from relscale.text.sources import read_documents

    (tmp_path / "x.jsonl").write_bytes(b'{"text": "ok"}\n' + line + b"\n")
    no, said = refused(lambda: list(read_documents(tmp_path / "x.jsonl")))
    assert no and "line 2" in said


# ---- small inputs that ask for large memory


BOMBS = {
    "a config of 10^9 layers": """
        from relscale.model.hub import load_hf
        import json, struct
        h = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [300, 16], "data_offsets": [0, 19200]}}).encode()
        open("model.safetensors", "wb").write(struct.pack("<Q", len(h)) + h + bytes(19200))
        open("config.json", "w").write(json.dumps(CONFIG | {"num_hidden_layers": 10**9}))
        go = lambda: load_hf(".")""",
    "a config of width 2^50": """
        from relscale.model.hub import load_hf
        import json, struct
        h = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [300, 16], "data_offsets": [0, 19200]}}).encode()
        open("model.safetensors", "wb").write(struct.pack("<Q", len(h)) + h + bytes(19200))
        open("config.json", "w").write(json.dumps(CONFIG | {"hidden_size": 2**50}))
        go = lambda: load_hf(".")""",
    "a token id of 4e9": """
        from relscale.text.tokenizer import load_tokenizer, token_num_bytes
        open("t.json", "w").write(TOKENIZER.replace('"!":1,', '"!":4000000000,'))
        go = lambda: token_num_bytes(load_tokenizer("t.json"))""",
    "a frame of 10^12 rows": """
        from relscale.results import Result
        from relscale.laws.relative import RelativeFit
        frame = {"frame": [["a", {"dtype": "float64", "values": [1.0]}]], "index": None, "index_name": None, "rows": 10**12}
        go = lambda: RelativeFit.from_json(json.dumps(frame))""",
    "nested ten million deep": """
        from relscale.plan.recipes import load_plan
        go = lambda: load_plan("[" * 10**7)""",
    "a hundred thousand unknown fields": """
        from relscale.plan.recipes import load_plan
        go = lambda: load_plan(json.dumps({f"f{i}": i for i in range(10**5)}))""",
}


@pytest.mark.parametrize("case", BOMBS)
def test_memory_stays_bounded(tmp_path, case):
    """1.5 GiB beyond what the imports hold, by the kernel's own limit; a reader that believes its input takes more."""
    body = "\n".join(line[8:] for line in BOMBS[case].splitlines())
    code = f"""
import json, resource, sys
CONFIG = json.loads({json.dumps(json.dumps(CONFIG))})
TOKENIZER = {tokenizer_json()!r}
{body}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29, used + 3 * 2**29))
from relscale.core import UserError
try:
    go()
except UserError as error:
    print(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < len(done.stdout) < LONGEST and done.stdout.count("\n") == 1
