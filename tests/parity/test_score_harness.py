"""Likelihoods of requests against lm-evaluation-harness's `hf` backend, the same weights and tokenizer file.

Bound: 1e-4 a request in float32, on log-probabilities of order one to ten. A token more or less in the context, a
position off by one or another boundary moves them by 0.01 and more.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with the harness needs PyTorch: make parity")
pytest.importorskip("transformers", reason="make parity brings transformers")
pytest.importorskip("lm_eval", reason="parity with the harness needs lm-eval")
huggingface = pytest.importorskip(
    "lm_eval.models.huggingface", reason="the harness's hf backend needs accelerate and peft",
    exc_type=ImportError,
)  # fmt: skip

from lm_eval.api.instance import Instance  # noqa: E402
from models import random_model  # noqa: E402

from relscale.core import UserError  # noqa: E402
from relscale.eval.likelihoods import log_likelihoods  # noqa: E402
from relscale.eval.requests import Request  # noqa: E402
from relscale.eval.windows import rolling_log_likelihoods  # noqa: E402
from relscale.model.hub import load_hf  # noqa: E402
from relscale.text.tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer, train_tokenizer  # noqa: E402

BOUND, WINDOW = 1e-4, 256
MMLU = next((p / "shared/data/mmlu" for p in Path(__file__).resolve().parents if (p / "shared/data/mmlu").is_dir()),
            Path("absent"))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Opened:
    model: object
    tokenizer: object
    window: int = WINDOW
    start_token: int = 0
    start: str = "empty"


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def pair(request, tmp_path_factory):
    """A random model of a family in a folder, opened by the harness and here."""
    import transformers

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer(TEXTS, 300)
    random_model(
        request.param, vocab_size=320, tied=request.param == "llama", max_position_embeddings=WINDOW
    ).save_pretrained(folder)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT,
    ).save_pretrained(folder)  # fmt: skip
    harness = huggingface.HFLM(str(folder), device="cpu", dtype="float32", batch_size=4)
    assert harness.max_length == WINDOW and harness.prefix_token_id == 0
    return harness, Opened(load_hf(folder), load_tokenizer(folder / "tokenizer.json"))


def theirs(harness, requests):
    instances = [Instance("loglikelihood", {}, tuple(r), i) for i, r in enumerate(requests)]
    return harness.loglikelihood(instances, disable_tqdm=True)


def assert_same(ours, answers):
    off = max(abs(a.log_likelihood - b) for a, (b, _) in zip(ours, answers, strict=True))
    print(f"{len(ours)} requests, largest difference {off:.2g}")
    assert off < BOUND
    assert [a.is_greedy for a in ours] == [greedy for _, greedy in answers]


SHOTS = "".join(
    f"Question: is {a} more than {a - 3}?\nAnswer: yes, naïve €{a}\n\n" for a in range(5, 8)
)
HAND = [
    *(Request(f"{SHOTS}Question: is {q} more than 6?\nAnswer:", f" {a}")
      for q in (7, 11) for a in ("yes", "no", "A", "B", "yes, naïve €7")),
    Request("", "Answer: yes"),
    Request("Answer: \n ", "yes"),
    Request("Answer:  ", " yes"),
    Request("naïve €", "5\n\n"),
    Request("🙂", "🙂 is more"),
    Request("Question", "s"),
    Request("A", "\n\n"),
    Request("Question\n\n", "Answer"),
    Request(SHOTS * 8, " yes"),  # longer than the window
    Request("Question", " is more" * 40),
]  # fmt: skip
TEXTS = [SHOTS * 3, "What is more than naïve? Question: answer."]


def test_requests_by_hand(pair):
    harness, opened = pair
    ours = log_likelihoods(opened, HAND)
    assert_same(ours, theirs(harness, HAND))
    assert ours[-2].num_cut > 0
    assert np.std([a.log_likelihood / a.num_tokens for a in ours]) > 0.3


def test_greedy_continuations(pair):
    """The likeliest next token is greedy in both, where it is text that encodes to itself."""
    harness, opened = pair
    encode, requests = (lambda text: opened.tokenizer.encode(text).ids), []
    for end in range(20, 60):
        ids = encode(context := SHOTS[:end].rstrip())
        with torch.no_grad():
            best = int(harness.model(torch.tensor([ids])).logits[0, -1].argmax())
        text = opened.tokenizer.decode([best])
        if encode(context + text) == [*ids, best]:
            requests.append(Request(context, text))
    ours = log_likelihoods(opened, requests)
    assert len(ours) > 3 and all(a.is_greedy for a in ours)
    assert_same(ours, theirs(harness, requests))


@pytest.mark.parametrize("text", ["", "Answer", SHOTS, SHOTS * 7, "🙂€ï\n\n"])
def test_rolling(pair, text):
    """Windows that repeat one token, the last reaching back; 2e-6 a token of a long text."""
    harness, opened = pair
    (ours,) = rolling_log_likelihoods(opened, [text])
    (answer,) = harness.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True
    )
    assert abs(ours.log_likelihood - answer) < max(BOUND, 2e-6 * ours.num_tokens)
    assert ours.num_bytes == len(text.encode())


@pytest.mark.parametrize(
    "request_", [Request("Question", " is" * 300), Request("Question", ""), Request(" ", "is")]
)
def test_where_the_harness_stops_at_an_assertion(pair, request_):
    """Refused here, with a reason; white space alone counts as no context."""
    harness, opened = pair
    with pytest.raises(AssertionError):
        theirs(harness, [request_])
    if request_.context == " ":
        assert log_likelihoods(opened, [request_]) == log_likelihoods(opened, [("", " is")])
    else:
        with pytest.raises(UserError):
            log_likelihoods(opened, [request_])


@pytest.mark.skipif(not MMLU.is_dir(), reason="items of MMLU are not beside the checkout")
@pytest.mark.parametrize("form", ["letters", "options"])
def test_items_of_mmlu(pair, form):
    """Three subjects, two shots: letters, which share a row in the harness too, and whole options."""
    harness, opened = pair
    requests = []
    for subject in ("anatomy", "philosophy", "management"):
        dev, test = (
            list(csv.reader((MMLU / k / f"{subject}_{k}.csv").open(encoding="utf-8")))[1:]
            for k in ("dev", "test")
        )

        def asked(row):
            options = (f"\n{x}. {o}" for x, o in zip("ABCD", row[1:5], strict=True))
            return row[0].strip() + "".join(options) + "\nAnswer:"

        shots = "".join(f"{asked(r)} {'ABCD'[int(r[5])]}\n\n" for r in dev[:2])
        for row in test[:4]:
            answers = "ABCD" if form == "letters" else row[1:5]
            requests += [Request(shots + asked(row), f" {a}") for a in answers]
    wide = dataclasses.replace(opened, window=1024)
    harness._max_length = 1024
    try:
        assert_same(log_likelihoods(wide, requests), theirs(harness, requests))
    finally:
        harness._max_length = None
