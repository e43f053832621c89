"""What only an accelerator can tell, in one command of at most eight minutes on one GPU or TPU.

    make accelerator                                 # or: python benchmarks/accelerator.py
    python benchmarks/accelerator.py --tiny          # every part on a CPU, in small

It checks numbers (each attention and each optimizer against float64 on the CPU), measures the training step at four
shapes of the released suite and the share of the card's peak that it uses, beside PyTorch's compiled Qwen3 on the same
card, attention alone and scoring, and resumes a run in a new process to the bit. The result is one table with the
card's name, `OUT/CARD.csv`, a row a number; a row that failed says why.

Each part is a process of its own, so that one that dies or hangs costs no other: it writes rows as it goes and is ended
when its seconds are over. The calling process never touches the card. `--torch-python` names an interpreter that has
PyTorch with CUDA, and transformers; without one, its rows say so.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BUDGETS_S = {  # 470 in all
    "device": 30,
    "numbers": 70,
    "steps": 130,
    "torch": 100,
    "attention": 40,
    "scoring": 40,
    "resume": 60,
}
COLUMNS = ("part", "case", "measure", "value", "unit", "low", "high", "bound", "passed", "note")
WIDTHS = (512, 1024, 1536, 2048)  # of the released suite: 157 million to 1.9 billion parameters
ROWS = 4  # sequences of a step; fewer where the card is too small


def row(part: str, case: str, measure: str, value=None, unit: str = "", **rest) -> dict:
    """A row of the table; one with a bound passes where its value is under it."""
    if "bound" in rest and value is not None:
        rest.setdefault("passed", bool(value <= rest["bound"]))
    return dict.fromkeys(COLUMNS) | {
        "part": part, "case": case, "measure": measure, "value": value, "unit": unit
    } | rest  # fmt: skip


def failed(part: str, case: str, error: Exception | str) -> dict:
    """A row for what did not come out, with the first line of why."""
    words = str(error).strip() or type(error).__name__
    return row(part, case, "failed", passed=False, note=words.splitlines()[0][:200])


class Clock:
    """The seconds that a part has left, by its own reckoning."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


# The card


def find_card() -> dict:
    """The device that JAX would use: its kind, platform, memory, and its peak where the kind is known."""
    import jax

    device = jax.devices()[0]
    chip = chip_of(device.device_kind, device.platform)
    memory = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "count": len(jax.devices()),
        "jax": jax.__version__,
        "memory_bytes": memory or (chip.memory_bytes if chip else None),
        "peak": {name: getattr(chip, f"{name}_flops", None) for name in ("bfloat16", "float32")},
    }


def chip_of(kind: str, platform: str):
    """The chip of `relscale.plan.chips` that a device calls itself by, or None."""
    from relscale.plan.chips import CHIPS, measure_chip

    if platform == "cpu":
        return measure_chip()
    words = re.sub(r"[^a-z0-9]+", " ", kind.lower())
    named = {
        "v6e": r"tpu v6",
        "v5p": r"tpu v5$|tpu v5p",
        "v5e": r"tpu v5 lite|tpu v5e",
        "v4": r"tpu v4",
        "h200": r"h200",
        "h100": r"h100(?! pcie)(?! nvl)",
        "b200": r"\bb200",
        "a100-80gb": r"a100 .*80gb",
        "a100-40gb": r"a100 .*40gb",
        "l40s": r"l40s",
    }
    return next((CHIPS[key] for key, form in named.items() if re.search(form, words)), None)


def part_device(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """What the table is of."""
    yield row(
        "device", "name", card["kind"], card["count"], "devices, one used", note=json.dumps(card)
    )


# Numbers


def exact_attention(query, key, value, gradient):
    """Causal attention and its gradients in float64, every score written down, as the formula stands."""
    import numpy as np

    query, key, value, gradient = (
        np.asarray(x, np.float64).swapaxes(1, 2) for x in (query, key, value, gradient)
    )
    shared = query.shape[1] // key.shape[1]
    keys, values = (np.repeat(x, shared, axis=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5
    scores = scale * query @ keys.swapaxes(2, 3)
    scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    into = gradient @ values.swapaxes(2, 3)
    into = scale * weights * (into - (weights * into).sum(-1, keepdims=True))

    def by_group(x):  # query heads of one key head add up
        return x.reshape(x.shape[0], -1, shared, *x.shape[2:]).sum(2)

    found = (
        weights @ values,
        into @ keys,
        by_group(into.swapaxes(2, 3) @ query),
        by_group(weights.swapaxes(2, 3) @ gradient),
    )
    return [x.swapaxes(1, 2) for x in found]


# The largest difference over the largest number. One wrong mask, head or position makes it 0.1 and more. On GPUs float32
# products are TF32 (10 bits of mantissa), on TPUs bfloat16 (7 bits), unless more is asked for.
PRODUCT_BOUNDS = {"cpu": 2e-5, "gpu": 5e-3, "cuda": 5e-3, "tpu": 3e-2}


def product_bound(card: dict) -> float:
    """How far float32 products of a platform may be off."""
    return PRODUCT_BOUNDS.get(card["platform"], 3e-2)


def attention_kernels(platform: str) -> list[tuple[str, str, Callable]]:
    """Name, type and function of each attention that a platform runs; off a TPU, splash attention is interpreted."""
    import functools

    from relscale.core import UserError
    from relscale.model import attention

    kernels = {
        "plain": attention.plain_attention,
        "strips": attention.strip_attention,
        "blocks": attention.block_attention,
        "cudnn": attention.cudnn_attention,
        "splash": attention.splash_attention,
    }
    found = []
    for name, kernel in kernels.items():
        for dtype in ("float32", "bfloat16"):
            if (name, dtype) == ("strips", "bfloat16"):  # written for float32
                continue
            if name == "splash" and platform == "cpu":
                if dtype == "float32":  # step by step, and once is slow enough
                    kernel = functools.partial(attention.splash_attention, interpret=True)
                    found.append((name, dtype, kernel))
                continue
            with contextlib.suppress(UserError):
                attention.pick_attention(name, platform, dtype, 128)
                found.append((name, dtype, kernel))
    return found


def with_gradients(kernel: Callable) -> Callable:
    """Output and gradients of an attention, compiled."""
    import jax

    def run(query, key, value, gradient):
        out, back = jax.vjp(kernel, query, key, value)
        return out, *back(gradient.astype(out.dtype))

    return jax.jit(run)


def check_attention(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Every attention of this platform, with grouped heads and a length that no block divides."""
    import jax.numpy as jnp
    import numpy as np

    batch, seq, heads, groups, head_dim = (1, 72, 2, 1, 64) if tiny else (2, 1000, 8, 2, 128)
    draw = np.random.default_rng(0).standard_normal
    shapes = [(batch, seq, n, head_dim) for n in (heads, groups, groups, heads)]
    inputs = [draw(shape).astype(np.float32) for shape in shapes]
    for name, dtype, kernel in attention_kernels(card["platform"]):
        case = f"attention {name}, {dtype}"
        if clock.left < 0:
            yield row("numbers", case, "skipped", note="its seconds were over")
            continue
        given = [jnp.asarray(x, dtype) for x in inputs]
        exact = exact_attention(*(np.asarray(x.astype(jnp.float32)) for x in given))
        bound = 3e-2 if dtype == "bfloat16" else product_bound(card)
        try:
            found = with_gradients(kernel)(*given)
            error = max(map(relative, found, exact))
        except (
            Exception
        ) as problem:  # a kernel that does not run here is a row, and the others go on
            yield failed("numbers", case, problem)
            continue
        yield row("numbers", case, "error", error, "of the largest", bound=bound)


def relative(found, exact) -> float:
    """Largest difference over the largest number; NaN anywhere makes it infinite."""
    import numpy as np

    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    worst = float(np.abs(found - exact).max() / np.abs(exact).max())
    return worst if worst == worst else float("inf")


OPTIMIZERS = {
    "adamw": {"cautious": False, "corrected_decay": False},
    "adamc": {"cautious": False},
    "cautious-adamw": {"corrected_decay": False},
    "c-adamc": {},
    "muon": {"cautious": False, "corrected_decay": False, "rule": "muon", "adam_learning_rate": 0.004},
}  # fmt: skip
OPTIMIZER_BOUND = (
    1e-4  # of the largest update; float32 over ten steps, Newton-Schulz in full float32
)


def optimizer_path(spec, num_steps: int, start: dict, gradients: list[dict]) -> dict:
    """Where an optimizer takes some arrays, in the type that JAX has for numbers just now."""
    import jax
    import jax.numpy as jnp

    from relscale.model.optim import hyper_of, init_state, update

    params = jax.tree.map(lambda x: jnp.asarray(x, float), start)
    state, hyper = init_state(params, spec.rule), hyper_of(spec, num_steps)
    step = jax.jit(lambda *given: update(*given))
    for gradient in gradients:
        gradient = jax.tree.map(lambda x: jnp.asarray(x, float), gradient)
        updates, state = step(gradient, state, params, hyper)
        params = jax.tree.map(jnp.add, params, updates)
    return jax.tree.map(lambda x, y: jnp.asarray(x) - jnp.asarray(y, float), params, start)


def check_optimizers(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Each optimizer for ten steps on the device, and the same in float64 on the CPU."""
    import jax
    import numpy as np

    from relscale.plan.spec import OptimSpec

    wide, steps = (16, 3) if tiny else (512, 10)
    shapes = {
        "embedding": (3 * wide, wide),
        "blocks": {"mlp": {"up": (2, wide, 2 * wide)}},
        "head": (3 * wide, wide),
    }
    random = np.random.default_rng(1)

    def draw():
        return jax.tree.map(
            lambda shape: random.standard_normal(shape).astype(np.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    start, gradients = draw(), [draw() for _ in range(steps)]
    for name, choices in OPTIMIZERS.items():
        case = f"optimizer {name}"
        if clock.left < 0:
            yield row("numbers", case, "skipped", note="its seconds were over")
            continue
        spec = OptimSpec(0.02, warmup=0.0, decay=0.2, **choices)
        try:
            found = optimizer_path(spec, steps + 2, start, gradients)
            with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                exact = optimizer_path(spec, steps + 2, start, gradients)
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
            error = max(relative(ours, theirs) for ours, theirs in pairs)
        except Exception as problem:
            yield failed("numbers", case, problem)
            continue
        yield row("numbers", case, "error", error, "of the largest", bound=OPTIMIZER_BOUND)


def check_gradient(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Loss and gradient of a small decoder on the device, with its own attention, and on the CPU with the plain one."""
    import jax
    import numpy as np

    from relscale.model.decoder import init_model
    from relscale.model.training import loss_and_grads
    from relscale.plan.spec import ComputeSpec, ModelSpec

    spec = ModelSpec(32, 2, 2, 1, 16, 64, 100) if tiny else ModelSpec(256, 3, 4, 2, 64, 1024, 5000)
    tokens = np.random.default_rng(2).integers(0, spec.vocab, (2, 65 if tiny else 513)).astype(np.int32)  # fmt: skip

    def found(attention: str) -> np.ndarray:
        model = init_model(spec, key=jax.random.key(0), compute=ComputeSpec(attention=attention))
        loss, gradient = jax.jit(lambda *given: loss_and_grads(*given))(model, tokens)
        leaves = (np.ravel(x) for x in jax.tree.leaves(gradient))
        return float(loss), np.concatenate(list(leaves)).astype(np.float64)

    try:
        loss, gradient = found("auto")
        with jax.default_device(jax.devices("cpu")[0]):
            exact_loss, exact = found("plain")
    except Exception as problem:
        yield failed("numbers", "decoder", problem)
        return
    apart = float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    for measure, error in (("loss", abs(loss / exact_loss - 1)), ("gradient", apart)):
        yield row("numbers", "decoder", f"error of the {measure}", error, "of its norm", bound=product_bound(card))  # fmt: skip


def part_numbers(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Attention and optimizers against float64, a decoder's gradient against the CPU's."""
    yield from check_attention(card, tiny, clock)
    yield from check_optimizers(card, tiny, clock)
    yield from check_gradient(card, tiny, clock)


# The training step


def step_cases(card: dict, tiny: bool) -> list[dict]:
    """Four shapes, each with the rows and the recomputation that the card's memory should allow."""
    from relscale.plan.cost import StepChoices, step_memory
    from relscale.plan.recipes import HELD2025, SMALL, model_of_width
    from relscale.plan.spec import to_dict

    recipe, widths, rows = (SMALL, (8, 16), 2) if tiny else (HELD2025, WIDTHS, ROWS)
    dtype = "float32" if card["platform"] == "cpu" else "bfloat16"
    room = 0.85 * (card["memory_bytes"] or 16e9)
    cases = []
    for width in widths:
        model = model_of_width(width, recipe)
        ways = [(rows >> k, remat) for k in range(rows.bit_length()) for remat in ("none", "block")]

        def held(way, model=model):
            choices = StepChoices(dtype, way[1], fused_attention=True)
            return step_memory(model, way[0], recipe.seq_len, choices)["total"] <= room

        found = next(filter(held, ways), None)
        cases.append(
            {
                "case": f"{model.hidden} x {model.num_layers}",
                "model": to_dict(model),
                "seq_len": recipe.seq_len,
                "dtype": dtype,
                "rows": found and found[0],
                "remat": found and found[1],
            }
        )
    return cases


def time_rounds(work: Callable[[int], None], seconds: float, rounds: int = 5) -> list[float]:
    """Seconds of one piece of work, from rounds of several in succession; each round ends when all is done."""
    start = time.perf_counter()
    work(1)
    once = time.perf_counter() - start
    count = max(1, int(seconds / rounds / max(once, 1e-6)))
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work(count)
        found.append((time.perf_counter() - start) / count)
    return found


def time_step(case: dict, card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """One shape: compiled, warmed up, and timed."""
    import jax
    import numpy as np

    from relscale.model.decoder import init_model
    from relscale.model.optim import hyper_of, init_state
    from relscale.model.training import TrainState, train_step
    from relscale.plan.flops import flop_counts, forward_flops_per_token, param_counts
    from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, from_dict

    spec, rows, seq = from_dict(ModelSpec, case["model"]), case["rows"], case["seq_len"]
    compute = ComputeSpec(case["dtype"], case["remat"])
    model = init_model(spec, key=jax.random.key(0), compute=compute)
    state, hyper = TrainState(model, init_state(model)), hyper_of(OptimSpec(1e-4), 10_000)
    tokens = np.random.default_rng(0).integers(0, spec.vocab, (rows, seq + 1)).astype(np.int32)
    tokens = jax.device_put(tokens)
    del model
    begin = time.monotonic()
    compiled = train_step.lower(state, tokens, hyper).compile()
    compile_s = time.monotonic() - begin
    memory = compiled.memory_analysis()
    losses = []

    def work(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, tokens, hyper)
        losses.append(float(metrics.loss))

    work(2)
    spent = time_rounds(work, 0.2 if tiny else max(1.0, min(6.0, clock.left / 4)))
    middle = statistics.median(spent)
    note = f"{param_counts(spec)['total']:,} parameters, {rows} x {seq} tokens, {case['dtype']}, remat {case['remat']}"
    yield row("steps", case["case"], "tokens_per_s", rows * seq / middle, "tokens/s",
              low=rows * seq / max(spent), high=rows * seq / min(spent), note=note)  # fmt: skip
    flops = flop_counts(spec, seq, rows * seq)["train_flops"]
    parts = forward_flops_per_token(spec, seq)
    causal = flops * (1 - (parts["attention"] + parts["softmax"]) / parts["total"] / 2)
    if peak := card["peak"][case["dtype"]]:
        for measure, count in (("utilisation", flops), ("utilisation_causal", causal)):
            yield row("steps", case["case"], measure, count / middle / peak, "of peak", note=note)
    peak_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    yield row("steps", case["case"], "compiled_memory", peak_bytes / 2**30, "GiB", note=note)
    yield row("steps", case["case"], "compile", compile_s, "s", note=note)
    finite = np.isfinite(losses).all() and losses[-1] < losses[0]
    yield row("steps", case["case"], "loss", losses[-1], "nats", passed=bool(finite),
              note=f"of one batch again and again; {losses[0]:.3f} after two steps")  # fmt: skip


def part_steps(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Tokens a second and utilisation at four released shapes."""
    for case in step_cases(card, tiny):
        if not case["rows"]:
            yield row(
                "steps",
                case["case"],
                "skipped",
                note="no step of it fits this card, by the estimate",
            )
        elif clock.left < 5 and not tiny:
            yield row("steps", case["case"], "skipped", note="the seconds of this part were over")
        else:
            yield row("steps", case["case"], "shape", note=json.dumps(case))
            try:
                yield from time_step(case, card, tiny, clock)
            except Exception as problem:
                yield failed("steps", case["case"], problem)


# PyTorch


def part_torch(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Hugging Face's Qwen3 in PyTorch at the same shapes: compiled, SDPA, bfloat16 by autocast, fused AdamW."""
    try:
        import torch
        import transformers
    except ImportError as problem:
        yield row(
            "torch", "PyTorch", "absent", note=f"{problem}; name an interpreter by --torch-python"
        )
        return
    cuda = torch.cuda.is_available()
    if not cuda and not tiny:
        yield row(
            "torch", "PyTorch", "absent", note=f"torch {torch.__version__} sees no CUDA device"
        )
        return
    device = "cuda" if cuda else "cpu"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    for case in json.loads(os.environ.get("RELSCALE_STEP_CASES", "[]")):
        if clock.left < 5 and not tiny:
            yield row("torch", case["case"], "skipped", note="the seconds of this part were over")
            continue
        try:
            yield from time_torch(case, device, tiny, clock, versions)
        except Exception as problem:
            yield failed("torch", case["case"], problem)


def torch_model(case: dict, device: str):
    """Qwen3 of a shape, on a device."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    spec = case["model"]
    config = Qwen3Config(
        vocab_size=spec["vocab"],
        hidden_size=spec["hidden"],
        num_hidden_layers=spec["num_layers"],
        num_attention_heads=spec["num_heads"],
        num_key_value_heads=spec["num_kv_heads"],
        head_dim=spec["head_dim"],
        intermediate_size=spec["mlp"],
        max_position_embeddings=case["seq_len"],
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config).to(device).train()
    if case["remat"] != "none":
        model.gradient_checkpointing_enable()
    return model


def time_torch(case: dict, device: str, tiny: bool, clock: Clock, versions: str) -> Iterator[dict]:
    """One shape in PyTorch; compiled where there is a GPU."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model, vocab, seq = torch_model(case, device), case["model"]["vocab"], case["seq_len"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(vocab, (case["rows"], seq + 1), device=device)

    def loss_of(tokens):
        with torch.autocast(device, torch.bfloat16, enabled=case["dtype"] == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        )

    forward = torch.compile(loss_of) if device == "cuda" else loss_of

    def work(count: int) -> None:
        for _ in range(count):
            loss = forward(tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device

    begin = time.monotonic()
    work(2)
    compile_s = time.monotonic() - begin
    spent = time_rounds(work, 0.2 if tiny else max(1.0, min(6.0, clock.left / 4)))
    number, note = (
        case["rows"] * seq,
        f"{versions}, SDPA, {'compiled' if device == 'cuda' else 'eager'}, AdamW",
    )
    yield row("torch", case["case"], "tokens_per_s", number / statistics.median(spent), "tokens/s",
              low=number / max(spent), high=number / min(spent), note=note)  # fmt: skip
    yield row("torch", case["case"], "first two steps", compile_s, "s", note=note)
    del model, optimizer, forward
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        yield row("torch", case["case"], "peak_memory", peak, "GiB", note=note)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# Attention alone


def part_attention(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Forward and backward of each attention, timed; FLOPs are the seven products of the causal half."""
    import jax

    batch, seq, heads, head_dim = (1, 64, 2, 64) if tiny else (4, 4096, 8, 128)
    flops = 7 * 2 * batch * heads * seq * seq * head_dim / 2
    shape, note = (batch, seq, heads, head_dim), f"{batch} x {heads} heads x {seq} x {head_dim}"
    for name, dtype, kernel in attention_kernels(card["platform"]):
        case = f"{name}, {dtype}"
        if clock.left < 1 and not tiny:
            yield row("attention", case, "skipped", note="the seconds of this part were over")
            continue
        given = [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(4)]
        try:
            run = with_gradients(kernel).lower(*given).compile()

            def work(count: int, run=run, given=given) -> None:
                for _ in range(count):
                    out = run(*given)
                jax.block_until_ready(out)

            work(1)
            spent = time_rounds(work, 0.05 if tiny else 1.5)
        except Exception as problem:
            yield failed("attention", case, problem)
            continue
        middle = statistics.median(spent)
        yield row("attention", case, "time", 1e3 * middle, "ms", low=1e3 * min(spent), high=1e3 * max(spent), note=note)  # fmt: skip
        peak = card["peak"][dtype]
        if peak and (
            dtype == "bfloat16" or card["platform"] == "cpu"
        ):  # TF32 is above a GPU's float32 peak
            yield row("attention", case, "utilisation", flops / middle / peak, "of peak", note=note)


# Scoring


def part_scoring(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """Five-shot questions through `log_likelihoods`: tokens a second, of a model with random weights."""
    import dataclasses

    import jax

    from relscale.eval.inspection import scoring_work
    from relscale.eval.likelihoods import log_likelihoods
    from relscale.eval.requests import Request
    from relscale.model.decoder import init_model
    from relscale.model.open import untrained_model
    from relscale.plan.recipes import HELD2025, SMALL, model_of_width
    from relscale.plan.spec import ComputeSpec

    subjects, items, shots, width, recipe = (1, 2, 1, 8, SMALL) if tiny else (8, 32, 5, 1024, HELD2025)  # fmt: skip
    questions = [
        [
            f"Question: what do {a} and {a * subject + 7} make, if each {subject} is counted twice?\nAnswer:"
            for a in range(items + shots)
        ]
        for subject in range(3, 3 + subjects)
    ]
    opened = untrained_model(sum(questions, []), vocab=280, window=256 if tiny else 2048)
    spec = dataclasses.replace(model_of_width(width, recipe), rope_scaling=None)
    compute = ComputeSpec("float32" if card["platform"] == "cpu" else "bfloat16")
    model = init_model(spec, key=jax.random.key(0), compute=compute)
    opened = dataclasses.replace(opened, model=model)
    requests = []
    for texts in questions:
        head = "".join(f"{text} {i}\n\n" for i, text in enumerate(texts[:shots]))
        requests += [
            Request(head + text, f" {word}")
            for text in texts[shots:]
            for word in ("seven", "ten", "a dozen", "none")
        ]
    begin = time.monotonic()
    first = log_likelihoods(opened, requests)
    first_s = time.monotonic() - begin
    spent = []
    while not spent or (len(spent) < 5 and clock.left > 2 * spent[-1] + 1):
        begin = time.monotonic()
        again = log_likelihoods(opened, requests)
        spent.append(time.monotonic() - begin)
    apart = max(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(first, again, strict=True))
    tokens, middle = scoring_work(opened, requests).tokens, statistics.median(spent)
    case, note = (
        f"{spec.hidden} x {spec.num_layers}",
        f"{len(requests)} requests of {subjects} subjects, {shots} shots",
    )
    for measure, way in (("tokens_read_per_s", "tree of all"), ("tokens_asked_per_s", "a text a request")):  # fmt: skip
        yield row("scoring", case, measure, tokens[way] / middle, "tokens/s",
                  low=tokens[way] / max(spent), high=tokens[way] / min(spent), note=note)  # fmt: skip
    yield row("scoring", case, "first pass", first_s, "s", note="compilation included")
    yield row("scoring", case, "difference of two passes", apart, "nats", bound=0.0, note=note)


# Resuming


def train_part(folder: str, stop_at: int, tiny: bool) -> None:
    """Train a small run until it ends or a step is logged; the digest of its final weights goes to standard output."""
    import jax
    import numpy as np

    from relscale.core import Preempted
    from relscale.model.checkpoints import CheckpointPolicy
    from relscale.model.training import train
    from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, RunSpec

    cpu = jax.default_backend() == "cpu"
    wide, heads, seq = (16, 2, 16) if tiny else (512, 4, 1024)
    spec = ModelSpec(wide, 2, heads, heads, wide // heads, 2 * wide, 64 if tiny else 8192)
    run = RunSpec("resume", "all", (("all", 1.0),), 1e9, spec, OptimSpec(0.003), seq, 8, 60,
                  compute=ComputeSpec("float32" if cpu else "bfloat16"))  # fmt: skip

    class Rows:
        def __getitem__(self, step: int):
            steps = np.random.default_rng(step).integers(0, 3, (8, seq + 1))
            return np.cumsum(steps, axis=1).astype(np.int32) % spec.vocab

    seen = []
    try:
        model, _ = train(run, Rows(), folder, checkpoints=CheckpointPolicy(every_s=0.0),
                         callbacks=[lambda logged: seen.append(logged["step"])],
                         should_stop=lambda: bool(stop_at) and seen[-1] >= stop_at)  # fmt: skip
    except Preempted:
        print(json.dumps({"stopped": seen[-1]}))
        return
    leaves = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model))
    print(json.dumps({"first": seen[0], "digest": hashlib.sha256(leaves).hexdigest()}))


def train_alone(folder: Path, stop_at: int, tiny: bool, flags: str) -> dict:
    """`train_part` in a process of its own."""
    given = [sys.executable, __file__, "--train-in", str(folder), "--stop-at", str(stop_at)]
    xla = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    done = subprocess.run(
        given + ["--tiny"] * tiny,
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": xla},
    )
    if done.returncode:
        raise RuntimeError(["died", *done.stderr.strip().splitlines()][-1])
    return json.loads(done.stdout.splitlines()[-1])


DETERMINISTIC = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


def part_resume(card: dict, tiny: bool, clock: Clock) -> Iterator[dict]:
    """A run that is never stopped, and one that stops and is resumed in a new process: the same weights to the bit."""
    ways = {"as it is": ""}
    if card["platform"] in (
        "gpu",
        "cuda",
    ):  # sums in another order from run to run, unless asked not to
        ways = {"deterministic kernels": DETERMINISTIC} | ways
    for way, flags in ways.items():
        if clock.left < 0:
            yield row("resume", way, "skipped", note="the seconds of this part were over")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                whole = train_alone(Path(scratch, "whole"), 0, tiny, flags)
                stopped = train_alone(Path(scratch, "cut"), 40, tiny, flags)
                resumed = train_alone(Path(scratch, "cut"), 0, tiny, flags)
            except Exception as problem:
                yield failed("resume", way, problem)
                continue
        same = (stopped.get("stopped"), resumed["first"], whole["digest"]) == (40, 60, resumed["digest"])  # fmt: skip
        note = f"60 steps, stopped at 40 and resumed in a new process; XLA_FLAGS {flags or 'as they are'}"
        yield row("resume", way, "weights are the same bits", float(same), "yes is 1", passed=same, note=note)  # fmt: skip


PARTS: dict[str, Callable[[dict, bool, Clock], Iterator[dict]]] = {
    "device": part_device,
    "numbers": part_numbers,
    "steps": part_steps,
    "torch": part_torch,
    "attention": part_attention,
    "scoring": part_scoring,
    "resume": part_resume,
}
WITHOUT_JAX = ("torch", "resume")  # the card is for PyTorch, or for processes that they start


# One process a part


def work_on(part: str, options: argparse.Namespace) -> None:
    """In a process of its own: the rows of a part, appended to a file as they come."""
    clock = Clock(0.9 * options.seconds)
    card = find_card() if part not in WITHOUT_JAX else json.loads(os.environ["RELSCALE_CARD"])
    with open(options.rows, "a") as file:
        for found in PARTS[part](card, options.tiny, clock):
            file.write(json.dumps(found) + "\n")
            file.flush()


def run_part(part: str, seconds: float, options: argparse.Namespace, extra: dict) -> list[dict]:
    """The rows of a part, which has so many seconds; what it wrote before it died or was ended is kept."""
    python = options.torch_python if part == "torch" else sys.executable
    with tempfile.TemporaryDirectory() as scratch:
        rows, said = Path(scratch, "rows.jsonl"), Path(scratch, "said")
        given = [python, __file__, "--worker", part, "--rows", str(rows), "--seconds", str(seconds)]
        with open(said, "w") as words:
            process = subprocess.Popen(
                given + ["--tiny"] * options.tiny, env=os.environ | extra, stdout=words, stderr=words,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:  # the children that it may have started, too
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = rows.read_text().splitlines() if rows.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        if code is None:
            found.append(failed(part, part, f"ended after its {seconds:.0f} s"))
        elif code:
            last = ["no word", *said.read_text(errors="replace").strip().splitlines()][-1]
            found.append(failed(part, part, f"died (exit code {code}): {last}"))
    return found


def environment_of(part: str, card: dict | None, cases: list[dict]) -> dict[str, str]:
    """What a part's process is told: the whole card for the steps, the CPU beside it for exact numbers."""
    said = {"RELSCALE_STEP_CASES": json.dumps(cases), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    here = str(Path(__file__).resolve().parents[1])
    said["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    if card is not None:
        said["RELSCALE_CARD"] = json.dumps(card)
    if (asked := os.environ.get("JAX_PLATFORMS")) and "cpu" not in asked:
        said["JAX_PLATFORMS"] = f"{asked},cpu"
    return said


def write_table(path: Path, rows: list[dict], card: dict) -> None:
    """The rows so far, each with the card and the version of JAX."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ("card", "jax", *COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows({"card": card["kind"], "jax": card["jax"]} | found for found in rows)


def show(found: dict) -> str:
    """A row as a line."""
    value = "" if found["value"] is None else f"{found['value']:.4g} {found['unit']}"
    limit = "" if found["bound"] is None else f" (at most {found['bound']:.0e})"
    mark = {None: " ", True: "+", False: "!"}[found["passed"]]
    note = found["note"] if found["passed"] is False or found["value"] is None else ""
    return f"{mark} {found['part']:>9}  {found['case']:<28} {found['measure']:<26} {value}{limit} {note or ''}".rstrip()


def measure(options: argparse.Namespace) -> tuple[list[dict], Path | None]:
    """All parts in turn; the table is written after each."""
    share = options.minutes * 60 / 480
    rows = run_part(
        "device", share * BUDGETS_S["device"], options, environment_of("device", None, [])
    )
    if not rows or rows[0]["measure"] == "failed":
        sys.exit(f"accelerator: JAX finds no device: {rows[0]['note'] if rows else 'no answer'}")
    card = json.loads(rows[0]["note"])
    if card["platform"] == "cpu" and not options.tiny:
        sys.exit(
            "accelerator: JAX sees a CPU alone; pip install 'relscale[train,cuda]' or [train,tpu] on a machine that has "
            "one, or --tiny to see each part run in small"
        )
    path = options.out / f"{re.sub(r'[^a-z0-9]+', '-', card['kind'].lower())}.csv"
    print(f"{card['count']} x {card['kind']} ({card['platform']}), jax {card['jax']}: one is used", flush=True)  # fmt: skip
    for part in options.parts.split(","):
        shapes = [found["note"] for found in rows if (found["part"], found["measure"]) == ("steps", "shape")]  # fmt: skip
        cases = [json.loads(note) for note in shapes]
        begin = time.monotonic()
        found = run_part(part, share * BUDGETS_S[part], options, environment_of(part, card, cases))
        rows += found
        for one in found:
            print(show(one), flush=True)
        rows.append(row(part, part, "took", time.monotonic() - begin, "s"))
        write_table(path, rows, card)
    return rows, path


def compare(rows: list[dict]) -> list[dict]:
    """Our tokens a second over PyTorch's, at the shapes that both ran."""
    rates = {
        (found["part"], found["case"]): found["value"]
        for found in rows
        if found["measure"] == "tokens_per_s"
    }
    return [
        row("torch", case, "relscale over PyTorch", rates["steps", case] / theirs, "times")
        for (part, case), theirs in rates.items()
        if part == "torch" and ("steps", case) in rates
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator"), help="folder of the table")
    parser.add_argument("--tiny", action="store_true", help="small shapes; runs on a CPU")
    parser.add_argument("--parts", default=",".join(p for p in PARTS if p != "device"))
    parser.add_argument("--minutes", type=float, default=8.0, help="at most, all parts together")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    for hidden in ("--worker", "--rows", "--train-in"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--stop-at", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work_on(options.worker, options)
        return 0
    if options.train_in:
        train_part(options.train_in, options.stop_at, options.tiny)
        return 0
    if unknown := set(options.parts.split(",")) - set(PARTS):
        parser.error(f"--parts {min(unknown)}: choose of {', '.join(PARTS)}")
    begin = time.monotonic()
    rows, path = measure(options)
    for found in compare(rows):
        print(show(found))
    card = json.loads(rows[0]["note"])
    write_table(path, rows + compare(rows), card)
    wrong = [found for found in rows if found["passed"] is False]
    checked = sum(found["passed"] is not None for found in rows)
    print(f"{checked - len(wrong)} of {checked} checks passed; {path} has {len(rows)} rows; took {time.monotonic() - begin:.0f} s")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
