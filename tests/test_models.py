"""Opening models: the right tokenizer and rules for each kind of name, and one line for each slip."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from relscale.core import UserError, write_atomic
from relscale.model.checkpoints import save_tree
from relscale.model.decoder import init_model
from relscale.model.hub import save_hf
from relscale.model.open import model_fingerprint, open_model
from relscale.plan.recipes import SMALL, Plan, save_plan
from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, RunSpec, to_json
from relscale.text.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer

TEXTS = ["The cat sat on the mat.", "Élan vital, naïve cafés, and a mat for the cat."] * 20
SPEC = ModelSpec(32, 2, 2, 1, 16, 64, vocab=288)
RUN = RunSpec("tiny", "cats", (("cats", 1.0),), 1e9, SPEC, OptimSpec(1e-3), 64, 8, 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with one run, and the same weights as a Hugging Face folder."""
    store = tmp_path_factory.mktemp("store")
    tokenizer = train_tokenizer(TEXTS, 280)
    model = init_model(SPEC, key=jax.random.key(0))
    save_tree(store / "runs" / "tiny" / "model", model)
    write_atomic(store / "runs" / "tiny" / "run.json", to_json(RUN))
    save_tokenizer(tokenizer, store / "tokenizer.json")
    save_hf(model, store / "hf", tokenizer=tokenizer, max_positions=128)
    return store


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def leaves(opened):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(opened.model)]


def test_a_run_and_its_export_are_one_model(store):
    run, exported = open_model(store / "runs" / "tiny"), open_model(store / "hf")
    for one, two in zip(leaves(run), leaves(exported), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (run.window, run.start, run.run_id) == (64, "always", "tiny")
    assert (exported.window, exported.start, exported.run_id) == (128, "empty", "hf")
    assert run.start_token == exported.start_token == run.tokenizer.token_to_id(END_OF_TEXT)


def test_a_run_without_run_json_is_found_in_the_plan(store):
    (store / "runs" / "tiny" / "run.json").unlink()
    with pytest.raises(UserError, match="no run.json"):
        open_model(store / "runs" / "tiny")
    write_atomic(store / "plan.json", save_plan(Plan(SMALL, (1e9,), (RUN,))))
    assert open_model(store / "runs" / "tiny").window == 64


def test_the_runs_own_tokenizer_goes_before_the_stores(store):
    own = train_tokenizer(TEXTS, 285)
    save_tokenizer(own, store / "runs" / "tiny" / "tokenizer.json")
    assert open_model(store / "runs" / "tiny").tokenizer.get_vocab_size() == 285


def test_window_dtype_and_tokenizer_by_choice(store):
    other = train_tokenizer(TEXTS, 288)
    save_tokenizer(other, store / "other.json")
    opened = open_model(store / "hf", tokenizer=store / "other.json", dtype="bfloat16", window=32)
    assert opened.tokenizer.get_vocab_size() == 288 and opened.window == 32
    assert opened.model.compute.dtype == "bfloat16"
    assert open_model(store / "runs" / "tiny", tokenizer=other).tokenizer is other


def test_a_window_is_at_most_what_the_model_was_made_for(store):
    assert open_model(store / "hf", window=128).window == 128
    assert open_model(store / "hf", window=2).window == 2
    for window in (1, 129):
        with pytest.raises(UserError, match="choose 2 to 128"):
            open_model(store / "hf", window=window)


def test_the_fingerprint_changes_with_all_that_a_likelihood_depends_on(store):
    """One weight's last bit, the sign of all weights of a leaf, the shape's static numbers, types, rules, tokenizer."""
    opened, again = open_model(store / "hf"), open_model(store / "hf")
    assert model_fingerprint(opened) == model_fingerprint(again)
    model, norm = opened.model, opened.model.final_norm
    bits = np.asarray(norm.weight).view(np.uint32).copy()
    bits[-1] ^= 1
    models = [
        dataclasses.replace(model, final_norm=dataclasses.replace(norm, weight=weight))
        for weight in (jax.numpy.asarray(bits.view(np.float32)), -norm.weight)
    ]
    models.append(dataclasses.replace(model, compute=ComputeSpec("bfloat16")))
    models.append(dataclasses.replace(model, spec=dataclasses.replace(model.spec, rope_theta=1e4)))
    changes = [{"model": m} for m in models]
    changes += [{"window": 64}, {"start": "always"}, {"start_token": opened.start_token + 1}]
    changes += [{"tokenizer": train_tokenizer(TEXTS, 288)}]
    prints = [model_fingerprint(dataclasses.replace(opened, **change)) for change in changes]
    assert len({model_fingerprint(opened), *prints}) == 1 + len(changes)


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("companion", "config", "start", "end"),
    [
        ({"bos_token": "Ġthe", "eos_token": END_OF_TEXT}, {}, "Ġthe", END_OF_TEXT),
        ({"bos_token": {"content": "Ġthe"}, "eos_token": None}, {}, "Ġthe", END_OF_TEXT),
        ({"bos_token": None, "eos_token": "Ġthe"}, {"bos_token_id": None}, "Ġthe", "Ġthe"),
        ({"bos_token": None, "eos_token": None}, {"eos_token_id": [0, 5]}, END_OF_TEXT, END_OF_TEXT),
    ],
)  # fmt: skip
def test_tokens_that_begin_and_end_texts(store, companion, config, start, end):
    """The companion names them, else the config; a text begins with the end token where none begins texts."""
    edit(store / "hf" / "tokenizer_config.json", **companion)
    edit(store / "hf" / "config.json", **config)
    opened = open_model(store / "hf")
    assert opened.tokenizer.id_to_token(opened.start_token) == start
    assert opened.tokenizer.id_to_token(opened.end_token) == end


def test_a_tokenizer_that_adds_its_first_token_means_always(store):
    """As Llama 3's does, by a template in tokenizer.json; add_bos_token alone does nothing there since transformers 5."""
    from tokenizers import Tokenizer, processors

    edit(store / "hf" / "tokenizer_config.json", add_bos_token=True)
    assert open_model(store / "hf").start == "empty"
    path = store / "hf" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    path.write_text(tokenizer.to_str())
    assert open_model(store / "hf").start == "always"


def spoil(path, content="{"):
    path.unlink()
    path.write_text(content)


SLIPS = {
    "no such folder": (lambda s: None, "nowhere", {}, "no such folder"),
    "a store": (lambda s: None, "", {}, "a store of runs.*runs/tiny"),
    "another folder": (lambda s: None, "runs", {}, "neither a run"),
    "a file": (lambda s: None, "tokenizer.json", {}, "no such folder"),
    "revision of a folder": (lambda s: None, "hf", {"revision": "main"}, "revision"),
    "window too long": (lambda s: None, "hf", {"window": 129}, "2 to 128"),
    "window of a run too long": (lambda s: None, "runs/tiny", {"window": 65}, "2 to 64"),
    "no tokenizer": (lambda s: (s / "hf/tokenizer.json").unlink(), "hf", {}, "no tokenizer.json"),
    "no tokenizer of a run": (lambda s: (s / "tokenizer.json").unlink(), "runs/tiny", {}, "no tokenizer.json in .*tiny or "),
    "broken tokenizer": (lambda s: spoil(s / "hf/tokenizer.json"), "hf", {}, "tokenizer.json"),
    "broken companion": (lambda s: spoil(s / "hf/tokenizer_config.json"), "hf", {}, "tokenizer_config.json: not readable"),
    "no start token": (
        lambda s: (spoil(s / "hf/tokenizer_config.json", '{"bos_token": "<s>"}'), edit(s / "hf/config.json", eos_token_id=999)),
        "hf", {}, "token 999 begins",
    ),
    "no positions": (lambda s: edit(s / "hf/config.json", max_position_embeddings=None), "hf", {}, "max_position_embeddings"),
    "not finished": (lambda s: shutil.rmtree(s / "runs/tiny/model"), "runs/tiny", {}, "not finished"),
    "broken run.json": (lambda s: spoil(s / "runs/tiny/run.json"), "runs/tiny", {}, "not valid JSON"),
    "weights of another shape": (
        lambda s: write_atomic(s / "runs/tiny/run.json", to_json(RUN).replace('"mlp": 64', '"mlp": 96')),
        "runs/tiny", {}, "not the weights of this run",
    ),
    "weights damaged": (
        lambda s: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in (s / "runs/tiny/model").iterdir()],
        "runs/tiny", {}, "not the weights of this run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_one_line(store, slip):
    harm, name, choices, says = SLIPS[slip]
    harm(store)
    with pytest.raises(UserError, match=says) as caught:
        open_model(store / name, **choices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "vocab"), [(290, 288), (280, 4096)])
def test_a_tokenizer_of_another_model_is_refused(tmp_path, size, vocab):
    """Larger than the model, or far smaller: padding is a matter of a few hundred rows."""
    spec = ModelSpec(32, 1, 2, 1, 16, 64, vocab=vocab)
    save_hf(init_model(spec, key=jax.random.key(0)), tmp_path / "m")
    with pytest.raises(UserError, match=f"{vocab} tokens.*{size}"):
        open_model(tmp_path / "m", tokenizer=train_tokenizer(TEXTS, size))
