"""Real `transformers` checkpoints, opened by name here and by the harness's `hf` backend there.

Both read the same folder: weights, tokenizer, the tokens that begin and end a text, and the longest text. Bound:
1e-4 nats on a log-likelihood, over at most forty tokens of logits of order one in float32; a token too many, a wrong
beginning or another window changes it by a tenth and more. Generated texts are equal as they stand.
"""

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with the harness needs PyTorch: make parity")
transformers = pytest.importorskip("transformers", reason="make parity brings transformers")
pytest.importorskip("lm_eval", reason="the harness: pip install 'relscale[harness]'")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from models import random_model  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from relscale.cli import main  # noqa: E402
from relscale.eval.groups import score_groups  # noqa: E402
from relscale.eval.harness import HarnessModel  # noqa: E402
from relscale.model.open import open_model  # noqa: E402
from relscale.tables import read_table  # noqa: E402
from relscale.text.documents import Document  # noqa: E402
from relscale.text.tokenizer import train_tokenizer  # noqa: E402

WINDOW = 48
FOLDERS = ["qwen3", "llama", "llama-bos", "llama-spaced-bos", "gpt_neox", "gemma2-spaced-bos"]
TEXTS = [
    "The cat sat on the mat, naïve café.",
    "Seven times two is fourteen.",
    "日本語 grass is green",
]
PAIRS = [
    ("The cat sat on the", " mat"),
    ("The cat sat on the ", "mat"),
    ("Seven times two is\n", "fourteen"),
    ("", "The cat"),
    ("naïve", " café 日本"),
    ("grass is green, the cat sat on the mat. " * 9, " Seven times"),
]


def spaced_tokenizer():
    """As Llama 2's: a space is a letter, one is put before every text, and rare characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    special = ["<unk>", "<|endoftext|>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([TEXTS[0]] * 20, trainer)
    return tokenizer


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    """A checkpoint as `save_pretrained` leaves it; two add their first token to every text, as Llama 3 does."""
    place = tmp_path_factory.mktemp(request.param)
    spaced = "spaced" in request.param
    tokenizer = spaced_tokenizer() if spaced else train_tokenizer(TEXTS * 20, 290)
    tokenizer.add_special_tokens(["<|begin|>"])
    begin = tokenizer.token_to_id("<|begin|>")
    if request.param.endswith("-bos"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
        )
    bos = "<|begin|>" if request.param.startswith(("llama", "mistral", "gemma")) else None
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|endoftext|>"
    )
    theirs.save_pretrained(place)
    model = random_model(
        request.param.split("-")[0], vocab_size=296, max_position_embeddings=WINDOW, scaled=False
    )
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def both(folder):
    theirs = HFLM(
        pretrained=str(folder), backend="causal", device="cpu", dtype="float32", batch_size=2
    )
    return HarnessModel(open_model(folder)), theirs


def asked(kind, arguments):
    return [Instance(kind, {}, tuple(each), i) for i, each in enumerate(arguments)]


def test_rules_of_a_folder(both, folder):
    ours, theirs = both
    assert ours.opened.start_token == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id
    assert ours.max_length == theirs.max_length == WINDOW
    assert ours.opened.start == ("always" if "-bos" in folder.name else "empty")
    first = [ours.opened.start_token] if ours.opened.start == "always" else []
    for text in TEXTS:
        assert first + ours.tok_encode(text) == theirs.tok_encode(text)


def test_log_likelihoods(both):
    ours, theirs = (model.loglikelihood(asked("loglikelihood", PAIRS), True) for model in both)
    for mine, its, pair in zip(ours, theirs, PAIRS, strict=True):
        assert mine[0] == pytest.approx(its[0], abs=1e-4), pair
        assert mine[1] == its[1]
    assert np.std([value for value, _ in ours]) > 1


def test_generated_texts(both):
    requests = [("The cat", {"until": ["e"], "max_gen_toks": 12}), ("日本", {"until": [], "max_gen_toks": 20}),
                (PAIRS[-1][0], {"until": ["zzz"], "max_gen_toks": 9})]  # fmt: skip
    ours, theirs = (
        model.generate_until(asked("generate_until", [(c, dict(k)) for c, k in requests]), True)
        for model in both
    )
    assert ours == theirs
    assert any(ours)


def test_a_task_from_end_to_end(both, tmp_path):
    """A local task through `simple_evaluate` gives the same table from both backends."""
    rows = [{"q": a, "options": [b, " cat", " green"], "gold": 0} for a, b in PAIRS if a]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(f"""
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: options
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tables = [
        simple_evaluate(model, tasks=["toy"], task_manager=manager, bootstrap_iters=0)["results"]
        for model in both
    ]
    for metric in ("acc,none", "acc_norm,none"):
        assert tables[0]["toy"][metric] == tables[1]["toy"][metric]


def test_the_command_scores_a_checkpoint(both, folder, tmp_path):
    """`relscale eval` on the folder: log-probability of the right option, as the harness computes it for the same texts."""
    rows = [
        {"query": text, "choices": ["the mat", "green"], "gold": i % 2}
        for i, text in enumerate(TEXTS)
    ]
    (tmp_path / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "eval",
        str(folder),
        "--tasks",
        "arc-easy",
        "--items",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 0
    scores = read_table(tmp_path / "o" / "scores.parquet").set_index("metric")
    right = [(f"Question: {r['query']}\nAnswer:", f" {r['choices'][r['gold']]}") for r in rows]
    theirs = [value for value, _ in both[1].loglikelihood(asked("loglikelihood", right), True)]
    assert scores.loc["log_probability", "value"] == pytest.approx(np.mean(theirs), abs=1e-4)


def test_documents(both):
    """Bits and bytes of whole texts by the model of transformers. (The harness predicts a begin-of-text token after a begin-of-text token, so it is not asked.)"""
    ours, theirs = both
    documents = [Document("toy", f"{i}", text) for i, text in enumerate(TEXTS)]
    scores = score_groups(ours.opened, {"toy": documents}).rows
    assert scores["num_bytes"].tolist() == [len(text.encode()) for text in TEXTS]
    for text, found in zip(TEXTS, scores["nats"], strict=True):
        ids = theirs.tokenizer.encode(text, add_special_tokens=False)
        row = torch.tensor([[ours.opened.start_token, *ids]])
        with torch.no_grad():
            chances = torch.log_softmax(theirs.model(row, use_cache=False).logits[0].double(), -1)
        assert found == pytest.approx(-chances[torch.arange(len(ids)), ids].sum().item(), abs=1e-3)
