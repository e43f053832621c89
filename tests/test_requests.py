"""Log-likelihoods of requests against a transcription in float64, and what users may do wrong.

Bound: 2e-5 a target token, on logits of order ten: float32 rounding over two layers. A wrong position, mask, target
or boundary moves a likelihood by 0.01 and more.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from relscale.core import UserError
from relscale.eval import kv_cache, likelihoods
from relscale.eval import requests as asked
from relscale.eval.inspection import TokenLikelihoods, scoring_work, token_log_likelihoods
from relscale.eval.likelihoods import log_likelihoods
from relscale.eval.requests import Request
from relscale.eval.windows import rolling_log_likelihoods
from relscale.model.decoder import Decoder, init_model
from relscale.plan.flops import forward_flops_per_token
from relscale.plan.spec import ModelSpec
from relscale.text.tokenizer import END_OF_TEXT, train_tokenizer

SHOTS = "".join(
    f"Question: is {a} more than {a - 3}?\nAnswer: yes, naïve €{a}\n\n" for a in range(5, 9)
)


@dataclass(frozen=True)
class Opened:
    model: Decoder
    tokenizer: object
    window: int = 150
    start_token: int = 0
    start: str = "empty"


@pytest.fixture(scope="module")
def opened():
    tokenizer = train_tokenizer([SHOTS] * 3, 290)
    spec = ModelSpec(16, 2, 4, 2, 6, 24, 300, tied=False, rope_scaling=None)
    return Opened(jax.tree.map(lambda w: 2 * w, init_model(spec, key=jax.random.key(1))), tokenizer)


REQUESTS = [
    Request(f"{SHOTS}Question: is {q} more than 6?\nAnswer:", f" {a}")
    for q in (7, 11)
    for a in ("yes", "no", "yes, naïve €7")
] + [
    Request("", "Answer: yes"),
    Request("", END_OF_TEXT),
    Request("Answer: \n ", "yes"),
    Request("  ", "Question"),
    Request("naïve €", "5\n\n"),
    Request("Answer: naïv", "é"),
    Request("🙂", "🙂 is more"),
    Request("Question", "s"),
    Request(SHOTS * 3, " yes"),  # longer than the window
]


def transcription(model: Decoder, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of the next token after each, float64: Qwen3's equations, one token at a time."""
    spec, w = model.spec, jax.tree.map(lambda a: np.asarray(a, np.float64), model)
    norm = lambda x, g: x / np.sqrt(np.mean(x * x) + spec.norm_eps) * g  # noqa: E731
    half = spec.head_dim // 2
    angle = spec.rope_theta ** -(np.arange(half) / half)

    def turned(x, position):
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * angle)
        return np.concatenate([z.real, z.imag])

    b, out = w.blocks, []
    keys, values = ([[] for _ in range(spec.num_layers)] for _ in range(2))
    for position, token in enumerate(tokens):
        x = w.embedding[token]
        for layer in range(spec.num_layers):
            a, h = b.attention, norm(x, b.attention_norm.weight[layer])
            q, k, v = ((h @ m[layer]).reshape(-1, spec.head_dim) for m in (a.query, a.key, a.value))
            if spec.qk_norm:
                q = [norm(one, a.query_norm.weight[layer]) for one in q]
                k = [norm(one, a.key_norm.weight[layer]) for one in k]
            keys[layer].append([turned(one, position) for one in k])
            values[layer].append(v)
            mixed = []
            for head in range(spec.num_heads):
                group = head // (spec.num_heads // spec.num_kv_heads)
                ks, vs = (np.array(c[layer])[:, group] for c in (keys, values))
                s = ks @ turned(q[head], position) / np.sqrt(spec.head_dim)
                p = np.exp(s - s.max())
                mixed.append(p / p.sum() @ vs)
            x = x + np.concatenate(mixed) @ a.output[layer]
            h = norm(x, b.mlp_norm.weight[layer])
            gate = h @ b.mlp.gate[layer]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ b.mlp.up[layer])) @ b.mlp.down[layer]
        s = (w.embedding if w.head is None else w.head) @ norm(x, w.final_norm.weight)
        out.append(s - s.max() - np.log(np.exp(s - s.max()).sum()))
    return np.array(out)


def by_hand(opened, request):
    """(sum, greedy, tokens, bytes, cut) of a request, its rule written out once more."""
    encode = lambda text: opened.tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    context, continuation = request
    while context and context[-1].isspace():
        context, continuation = context[:-1], context[-1] + continuation
    before = encode(context)
    after = encode(context + continuation)[len(before) :]
    if opened.start == "always" or not context:
        before = [opened.start_token, *before]
    cut = max(0, len(before) + len(after) - opened.window - 1)
    tokens = [*before, *after][cut:]
    scores = transcription(opened.model, tokens[:-1])[-len(after) :]
    total = sum(row[t] for row, t in zip(scores, after, strict=True))
    greedy = bool((scores.argmax(1) == after).all())
    return total, greedy, len(after), len(continuation.encode()), cut


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert tuple(a)[1:] == tuple(b)[1:]
        assert a[0] == pytest.approx(b[0], abs=2e-5 * a.num_tokens)


@pytest.fixture(scope="module")
def answers(opened):
    return log_likelihoods(opened, REQUESTS)


def test_shared_equals_the_transcription(opened, answers):
    assert_same(answers, [by_hand(opened, r) for r in REQUESTS])
    assert answers[-1].num_cut > 0 == answers[0].num_cut
    assert len({a.num_tokens for a in answers}) > 3  # continuations of one token and of several


def test_a_start_token_before_every_text(opened):
    always = replace(opened, start="always")
    some = [*REQUESTS[4:9], REQUESTS[-1]]
    assert_same(log_likelihoods(always, some), [by_hand(always, r) for r in some])


@pytest.mark.parametrize("start", ["empty", "always"])
@pytest.mark.parametrize("context, continuation", [("<|endoftext|>Answer:", " yes"), ("", "<|endoftext|>Answer: yes")])  # fmt: skip
def test_a_start_token_in_the_text_is_not_put_there_twice(opened, start, context, continuation):
    """Where a tokenizer makes the token of its spelling, as that of `transformers` does."""
    spelled = Tokenizer.from_str(opened.tokenizer.to_str())
    spelled.encode_special_tokens = False
    assert spelled.encode(END_OF_TEXT).ids == [opened.start_token]
    text = Request(context, continuation)
    (job,) = asked.tokenize_requests(replace(opened, tokenizer=spelled, start=start), [text])
    ids = opened.tokenizer.encode("Answer: yes").ids
    assert [*job.tokens] == [opened.start_token, *ids]
    assert job.num_targets == (len(ids) if not context else len(ids) - len(opened.tokenizer.encode("Answer:").ids))  # fmt: skip


def test_order_batches_and_company_do_not_matter(opened, answers):
    alone = [log_likelihoods(opened, [r])[0] for r in REQUESTS[:8:3]]
    assert_same(alone, answers[:8:3])
    order = np.random.default_rng(0).permutation(len(REQUESTS))
    for tokens_at_once in (8, 1000):
        again = log_likelihoods(opened, [REQUESTS[i] for i in order], tokens_at_once=tokens_at_once)
        assert_same(again, [answers[i] for i in order])


def test_many_targets_at_one_position(opened):
    """More than the head takes at a time: every single byte after one context."""
    requests = [Request("Answer:", chr(c)) for c in range(33, 127) if chr(c).isalnum()] * 2
    requests += [Request(f"Answer: {i}", " no") for i in range(40)]
    ours = log_likelihoods(opened, requests, tokens_at_once=16)
    assert_same(ours[::17], [by_hand(opened, r) for r in requests[::17]])


def test_equal_requests_and_one_token_answers_share_a_row(opened):
    options = [Request(f"{SHOTS}Answer:", c) for c in "ABCD"]
    assert len({a.log_likelihood for a in log_likelihoods(opened, options * 2)}) == 4
    work = scoring_work(opened, options * 5)
    assert work.targets == 1 and work.tokens["tree of all"] == work.tokens["different texts"]
    assert work.tokens["a text a request"] == 4 * work.tokens["tree of all"]


def test_the_work_of_one_request(opened):
    """A token that sees n others costs n pairs; a text of n tokens has 1 + 2 + ... + n."""
    (one,) = asked.tokenize_requests(opened, [REQUESTS[0]])
    n, cost = len(one.tokens) - 1, forward_flops_per_token(opened.model.spec, 1)
    each = cost["projections"] + cost["mlp"] + cost["head"]
    pairs = sum(range(1, n + 1)) * (cost["attention"] + cost["softmax"])
    work = scoring_work(opened, REQUESTS[:1])
    assert work.tokens["a text a request"] == work.tokens["tree of all"] == n
    assert work.flops["a text a request"] == pytest.approx(n * each + pairs, rel=1e-12)
    spared = (n - work.targets) * cost["head"]
    assert work.flops["tree of all"] == pytest.approx(n * each + pairs - spared, rel=1e-12)


def test_bars_of_the_likeliest_tokens_are_filled():
    tokens, greedy = np.arange(2), np.array([True, False])
    parts = TokenLikelihoods(REQUESTS[0], tokens, (b"a", b"b"), np.array([-1.0, -2.0]), greedy)
    assert [bar.get_facecolor()[3] for bar in parts.plot().patches] == [1, 0]


def test_the_bar_begins_where_a_file_ends(opened, tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    log_likelihoods(opened, REQUESTS[:2], results=path)
    assert not capsys.readouterr().err
    log_likelihoods(opened, REQUESTS[:3], results=path, progress=True)
    shown = capsys.readouterr().err
    assert "2/3" in shown.split("\r")[1] and "3/3" in shown and "0/3" not in shown


def test_few_programs(opened):
    """Requests of other lengths and numbers compile nothing new."""
    read, head = kv_cache.read_rows._cached, likelihoods._score_slots._cached
    log_likelihoods(opened, REQUESTS)
    before = read._cache_size(), head._cache_size()
    log_likelihoods(opened, [Request(r.context[5:], r.continuation) for r in REQUESTS[:9]] * 2)
    assert (read._cache_size(), head._cache_size()) == before


LLAMA3 = asked._LLAMA3


@pytest.mark.parametrize("pattern", [None, asked._GPT2, LLAMA3, LLAMA3.replace("{1,3}", "")])
def test_encoding_line_by_line_changes_no_token(opened, pattern):
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    tokenizer = Tokenizer.from_str(opened.tokenizer.to_str())
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    assert asked._lines_stand_alone(tokenizer)
    random = np.random.default_rng(0)
    alphabet = [
        *"ab1.,:'?",
        " ",
        " ",
        "  ",
        "\n",
        "\n",
        "\r\n",
        "\t",
        "é",
        "e\u0301",
        "\u00a0",
        "🙂",
        "'s",
    ]
    texts = ["".join(random.choice(alphabet, random.integers(0, 40))) for _ in range(2000)]
    whole = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    assert asked.encode_once(tokenizer, texts) == whole
    assert sum(bool(asked._LINE.search(t)) for t in texts) > 500  # cuts there are


def test_other_tokenizers_are_given_whole_texts(opened):
    from tokenizers import Tokenizer, pre_tokenizers

    whole_words = Tokenizer.from_str(opened.tokenizer.to_str())
    whole_words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert not asked._lines_stand_alone(whole_words)
    whole_words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not asked._lines_stand_alone(whole_words)


def test_rolling_counts_every_byte_once(opened):
    texts = ["", "Answer: naïve €5", SHOTS]
    narrow = replace(opened, window=40)
    for context in (1, 17, 40):
        ours = rolling_log_likelihoods(narrow, texts, context=context)
        assert ours[0] == (0.0, True, 0, 0, 0)
        for text, answer in zip(texts[1:], ours[1:], strict=True):
            ids = [0, *opened.tokenizer.encode(text).ids]
            total, done = 0.0, 1
            while done < len(ids):  # a window as full as can be, of which the new tokens count
                stop = min(len(ids), done + (40 if done == 1 else 41 - context))
                window = ids[max(0, stop - 41) : stop]
                rows = transcription(opened.model, window[:-1])
                new = range(len(window) - (stop - done), len(window))
                total += sum(rows[i - 1, window[i]] for i in new)
                done = stop
            assert answer.log_likelihood == pytest.approx(total, abs=2e-5 * len(ids))
            assert answer[2:] == (len(ids) - 1, len(text.encode()), 0)


def test_tokens_add_up(opened, answers):
    for request, answer in zip(REQUESTS, answers, strict=True):
        parts = token_log_likelihoods(opened, request)
        assert parts.log_likelihoods.sum() == pytest.approx(answer.log_likelihood, abs=1e-4)
        assert parts.summary()["num_bytes"].sum() == answer.num_bytes
    parts = token_log_likelihoods(opened, Request("Answer:", " 🙂"))
    assert b"".join(parts.token_bytes) == " 🙂".encode() and len(parts.tokens) > 2
    assert parts.summary()["text"].str.contains(r"\\x").any()


def test_greedy_is_every_token(opened):
    """Continuations that begin with the likeliest token and go on with another."""
    mixed = []
    for end in range(10, 60):
        context = SHOTS[:end].rstrip()
        ids = opened.tokenizer.encode(context).ids
        best = int(transcription(opened.model, ids)[-1].argmax())
        request = Request(context, opened.tokenizer.decode([best]) + " Zz")
        parts = token_log_likelihoods(opened, request) if request.continuation != " Zz" else None
        if parts is not None and parts.is_greedy.any() and not parts.is_greedy.all():
            mixed.append(request)
    assert mixed
    assert not any(a.is_greedy for a in log_likelihoods(opened, mixed))


def test_an_interrupted_call_goes_on(opened, answers, tmp_path, monkeypatch):
    path, run, computed = tmp_path / "deep" / "answers.jsonl", likelihoods.score_tokens, []

    def counted(opened, requests, **rest):
        for item in run(opened, requests, **rest):
            computed.append(item)
            yield item
            if len(computed) == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(likelihoods, "score_tokens", counted)
    with pytest.raises(KeyboardInterrupt):
        log_likelihoods(opened, REQUESTS, results=path, tokens_at_once=64)
    kept = path.read_text().splitlines()
    assert len(kept) == 5
    path.write_text("\n".join(kept) + '\n{"key": "12', newline="")
    assert_same(log_likelihoods(opened, REQUESTS, results=path), answers)
    assert len(computed) == len(REQUESTS) and path.read_text().splitlines()[:5] == kept
    assert_same(log_likelihoods(opened, REQUESTS[::-1], results=path), answers[::-1])
    assert len(computed) == len(REQUESTS)

    other = eqx.tree_at(
        lambda o: o.final_norm.weight, opened.model, -opened.model.final_norm.weight
    )
    for changed in (replace(opened, model=other), replace(opened, start="always")):
        size = len(computed)
        log_likelihoods(changed, REQUESTS[:1], results=path)
        assert len(computed) == size + 1


@pytest.mark.parametrize("line", ["{", "[1]", '{"key": "k"}', "null"])
def test_a_corrupt_line_is_named(opened, tmp_path, line):
    path = tmp_path / "answers.jsonl"
    log_likelihoods(opened, REQUESTS[:2], results=path)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    before = path.read_text()
    with pytest.raises(UserError, match=r"answers\.jsonl:2: "):
        log_likelihoods(opened, REQUESTS[:2], results=path)
    assert path.read_text() == before
    json.loads(first)


def test_a_changed_answer_is_not_taken_for_the_models(opened, tmp_path):
    path = tmp_path / "answers.jsonl"
    log_likelihoods(opened, REQUESTS[:2], results=path)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second.replace('true', 'null').replace('false', 'true')}\n")
    with pytest.raises(UserError, match=r"answers\.jsonl:2: .* damaged"):
        log_likelihoods(opened, REQUESTS[:2], results=path)


@pytest.mark.parametrize(
    ("requests", "change", "options", "message"),
    [
        ([("Answer:", "")], {}, {}, "request 0, .*no token to score"),
        ([("ok", " a"), ("Answer: ", "")], {}, {}, "request 1, .*no token to score"),
        ([("Answer: na", "ïve")], {}, {}, "no token to score"),  # one token, begun by the context
        ([("a", " b" * 30)], {"window": 20}, {}, "request 0, .*window has 20"),
        ([("a " * 40, "b")], {"window": 20}, {"overflow": "refuse"}, "tokens too long"),
        ([("a", "b")], {}, {"overflow": "trim"}, "'cut' or 'refuse'"),
        ([("a", "b")], {}, {"tokens_at_once": 0}, "at least 1"),
        ([("a", "\ud800")], {}, {}, "surrogate"),
        ([("a", "b")], {"start_token": 300}, {}, "start token 300"),
        ([("a", "b")], {"window": 0}, {}, "window=0"),
    ],
)
def test_slips(opened, requests, change, options, message):
    with pytest.raises(UserError, match=message):
        log_likelihoods(replace(opened, **change), [Request(*r) for r in requests], **options)


def test_a_tokenizer_of_another_model_is_refused(opened):
    small = init_model(replace(opened.model.spec, vocab=280), key=jax.random.key(0))
    with pytest.raises(UserError, match="tokenizer of 290 tokens.* 280"):
        log_likelihoods(replace(opened, model=small), REQUESTS[:1])


def test_a_diverged_model_is_refused(opened):
    token = opened.tokenizer.encode("Answer").ids[0]
    model = eqx.tree_at(
        lambda m: m.embedding, opened.model, opened.model.embedding.at[token].set(np.nan)
    )
    with pytest.raises(UserError, match="its log-likelihood is nan"):
        log_likelihoods(replace(opened, model=model), REQUESTS)


MESH = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, json
import test_requests as t
from relscale.model.mesh import make_mesh
opened = t.opened.__wrapped__() if hasattr(t.opened, "__wrapped__") else t.opened.__pytest_wrapped__.obj()
wide = make_mesh(data=4), make_mesh(data=1, fsdp=2, tensor=2)
print(json.dumps([t.log_likelihoods(opened, t.REQUESTS, mesh=m, tokens_at_once=64) for m in wide]))
"""


def test_rows_over_devices(answers):
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MESH, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for on_mesh in json.loads(done.stdout.splitlines()[-1]):
        assert_same([asked.Likelihood(*a) for a in on_mesh], answers)


# --- tokens that span the join ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def joining(opened):
    """A byte-level tokenizer without a splitting rule: it merges across spaces, line ends and punctuation."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["Answer: C\n", "Q. x\nAnswer: naïve", "hello worlds"] * 50, trainer
    )
    return replace(opened, tokenizer=tokenizer)


def test_bytes_are_those_of_the_tokens_that_are_scored(joining):
    """Every cut of a text in two, and pieces put together at random; what is scored decodes to `num_bytes` bytes."""
    random, text = np.random.default_rng(0), "Q. x\nAnswer: naïve hello worlds\nAnswer: C or naïve"
    pieces = ["Answer:", " C", "\n", " na", "ïve", "hello", " wor", "lds", " ", "Q. ", "€"]
    pairs = [(text[:i], text[i:]) for i in range(len(text))]
    pairs += [
        tuple("".join(random.choice(pieces, random.integers(1, 5))) for _ in range(2))
        for _ in range(500)
    ]
    kept = asked.tokenize_requests(joining, [Request(*p) for p in pairs], joined="keep")
    encode = lambda t: joining.tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    partial = 0
    for (context, continuation), one in zip(pairs, kept, strict=True):
        after = encode(context + continuation)[len(encode(context.rstrip())) :]
        assert one.num_targets == len(after)  # the harness's rule
        assert [*one.tokens[len(one.tokens) - len(after) :]] == after
        alphabet = dict(zip(map(ord, byte_letters()), range(256), strict=True))
        scored = "".join(joining.tokenizer.id_to_token(i) for i in after)
        assert one.num_bytes == len(bytes(alphabet[ord(c)] for c in scored))
        partial += 0 < one.num_bytes < len(continuation.encode())
    assert partial > 50 and sum(one.num_targets == 0 for one in kept) > 10


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies, GPT-2's rule."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in visible else chr(next(other)) for b in range(256)]


def test_bytes_of_a_tokenizer_that_says_where_its_tokens_begin(opened):
    """Not byte-level: a BPE over characters that merges across the space."""
    from tokenizers import models

    letters = {c: i + 1 for i, c in enumerate("abc é")}
    tokenizer = Tokenizer(
        models.BPE(vocab={"<s>": 0, **letters, "a ": 6, "a b": 7}, merges=[("a", " "), ("a ", "b")])
    )
    other = replace(opened, tokenizer=tokenizer)
    (one,) = asked.tokenize_requests(other, [Request("a", " bé")])
    assert (one.num_targets, one.num_bytes) == (1, 2)  # of [a b][é] what follows the first token
    with pytest.raises(UserError, match="merges all of it"):
        asked.tokenize_requests(other, [Request("a", " b")])


def test_a_request_without_a_token_can_be_kept(joining, tmp_path):
    requests = [Request("Answer:", " naïve"), Request("hello wor", "lds"), Request("€", " C")]
    answers = log_likelihoods(joining, requests, joined="keep", results=tmp_path / "a.jsonl")
    none = [a.num_tokens == 0 for a in answers]
    assert any(none) and not all(none)
    for answer in answers:
        assert (
            np.isnan(answer.log_likelihood) == (answer.num_tokens == 0) == (answer.num_bytes == 0)
        )
    stored = (tmp_path / "a.jsonl").read_text().splitlines()
    assert len(stored) == none.count(False) and not any("NaN" in line for line in stored)
    again = log_likelihoods(joining, requests, joined="keep", results=tmp_path / "a.jsonl")
    assert str(again) == str(answers)
    with pytest.raises(UserError, match="merges all of it with the end of the context"):
        log_likelihoods(joining, requests)
    with pytest.raises(UserError, match="'refuse' or 'keep'"):
        log_likelihoods(joining, requests, joined="drop")
