"""Text groups: every way of keeping them gives the same documents, ICE's markup goes, and each byte counts once."""

import importlib.util
import json
import math
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.eval import groups as rg
from relscale.eval.bits import score_documents
from relscale.eval.evaluation import describe_scores, evaluate
from relscale.eval.groups import GroupScores, load_groups, score_groups
from relscale.eval.ice import load_ice, strip_ice
from relscale.eval.tasks import get_task
from relscale.model.decoder import init_model
from relscale.model.open import untrained_model
from relscale.plan.spec import ModelSpec
from relscale.tables import join_scores
from relscale.text.documents import Document
from relscale.text.embedded import EMBEDDED
from relscale.text.sources import Source
from relscale.text.tokenizer import train_tokenizer

SPEECHES = Path(__file__).resolve().parents[2] / "shared" / "data" / "regional_speeches"


@dataclass(frozen=True)
class Opened:
    """The fields of `relscale.model.open.OpenModel` that scoring reads."""

    name: str
    model: object
    tokenizer: object
    window: int
    start_token: int


@pytest.fixture(scope="module")
def opened():
    tokenizer = train_tokenizer(["the gap narrows, ένα κενό 🙂 and widens again " * 3], 280)
    spec = ModelSpec(
        hidden=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16, mlp=32, vocab=280
    )
    return Opened("tiny", init_model(spec, key=jax.random.key(1)), tokenizer, 24, 0)


def flat(opened):
    """The model whose every token costs log(vocab), so that only counting is left to go wrong."""
    zero = jax.tree.map(lambda a: jnp.zeros_like(a) if eqx_array(a) else a, opened.model)
    return replace(opened, model=zero)


def eqx_array(value):
    return isinstance(value, jax.Array)


def named(**texts):
    return {
        g: [Document(g, f"{g}{i}", text) for i, text in enumerate(own)] for g, own in texts.items()
    }


# --- loading -----------------------------------------------------------------------------------


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rows.items():
        (folder / name).write_text(text)
    return folder


def plain(groups):
    return {g: sorted(d.text for d in ds) for g, ds in sorted(groups.items())}


def test_all_ways_give_the_same_groups(tmp_path):
    rows = {"AUS_1.txt": "one", "AUS_2.txt": "two", "LKA_1.txt": "three"}
    want = {"AUS": ["one", "two"], "LKA": ["three"]}
    write(tmp_path / "flat", rows)
    for name, text in rows.items():
        write(tmp_path / "deep" / name[:3] / "sub", {name: text})
    lines = [{"g": n[:3], "body": t} for n, t in rows.items()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pd.DataFrame(lines).to_parquet(tmp_path / "rows.parquet")
    write(tmp_path / "files", {
        f"{g}.jsonl": "".join(json.dumps({"body": t}) + "\n" for t in texts) for g, texts in want.items()
    })  # fmt: skip
    deep = tmp_path / "deep"
    for groups in (
        load_groups(tmp_path / "flat"),
        load_groups(deep),
        load_groups(tmp_path / "rows.jsonl", by="g", text_field="body"),
        load_groups(tmp_path / "rows.parquet", by="g", text_field="body"),
        load_groups(Source("x", "jsonl", str(tmp_path / "rows.jsonl"), text_field="body"), by="g"),
        load_groups(tmp_path / "files", text_field="body"),
        load_groups({g: deep / g for g in want}),
        load_groups([deep / "AUS", Source("LKA", "folder", str(deep / "LKA"))]),
    ):
        assert plain(groups) == want
        assert all(d.domain == g for g, ds in groups.items() for d in ds)


def test_pattern_and_glob_characters(tmp_path):
    write(tmp_path, {"x-[a]-1.txt": "one", "x-b-2.txt": "two", "x-b-3.txt": "three"})
    assert plain(load_groups(tmp_path, pattern=r"x-([^-]+)")) == {
        "[a]": ["one"],
        "b": ["three", "two"],
    }
    with pytest.raises(UserError, match="does not begin with a group"):
        load_groups(tmp_path, pattern=r"\d+")


def test_max_documents_is_one_sample_however_texts_are_kept(tmp_path):
    rows = {f"{g}_{i}.txt": f"text {g}{i}" for g in "AB" for i in range(20)}
    write(tmp_path / "flat", rows)
    for name, text in rows.items():
        write(tmp_path / "deep" / name[0], {name: text})
    few = load_groups(tmp_path / "flat", max_documents=5)
    assert plain(few) == plain(load_groups(tmp_path / "deep", max_documents=5))
    assert plain(few) != plain(load_groups(tmp_path / "flat", max_documents=5, seed=1))
    assert [len(ds) for ds in few.values()] == [5, 5]


def test_documents_without_text_are_counted_and_told(tmp_path):
    """Every way of keeping groups, with and without a limit; the count reaches the scores and what is said of them."""
    texts = {
        "A_1.txt": "one one",
        "A_2.txt": " \n",
        "A_3.txt": "",
        "B_1.txt": "two two",
        "B_2.txt": "three",
    }
    write(tmp_path / "flat", texts)
    for name, text in texts.items():
        write(tmp_path / "deep" / name[0], {name: text})
    lines = [{"group": n[0], "text": t} for n, t in texts.items()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(tmp_path / "files", {
        f"{g}.jsonl": "".join(json.dumps(r) + "\n" for r in lines if r["group"] == g) for g in "AB"
    })  # fmt: skip
    sources = [tmp_path / n for n in ("flat", "deep", "rows.jsonl", "files")]
    for source in (*sources, {g: tmp_path / "deep" / g for g in "AB"}):
        for most in (None, 3):
            found = load_groups(source, max_documents=most)
            assert found.num_empty == {"A": 2} and plain(found)["A"] == ["one one"]
    opened = untrained_model([" ".join(texts.values())] * 99, vocab=260)
    scored = score_groups(opened, found)
    assert scored.num_empty == {"A": 2}
    assert "without 2 documents (2 of A) that hold no text" in repr(scored)
    table = scored.scores(run_id="x", task="text").set_index(["group", "metric"])["num_empty"]
    assert table["A", "bits_per_byte"] == 2 and table["B", "bits_per_byte"] == 0
    told = evaluate(opened, "text", tmp_path / "flat")
    assert "2 documents hold no text and were left out" in describe_scores(told, [get_task("text")])
    assert load_groups(tmp_path / "deep", max_documents=1).num_empty.get("B", 0) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: load_groups(write(p, {"A_1.txt": "one"})), "only 'A'.*needs two"),
        (lambda p: load_groups(write(p, {})), "no group"),
        (lambda p: load_groups(write(p, {"A_1.txt": "one", "B_1.txt": "  "})), "group B: no text"),
        (lambda p: load_groups(write(write(p, {"A_1.txt": "x"}) / "B", {"1.txt": "y"}).parent), "both"),
        (lambda p: load_groups(write(p / "A", {"1.txt": "x"}).parent / "A"), "needs two"),
        (lambda p: load_groups(write(p, {"r.jsonl": '{"text": "x"}'}) / "r.jsonl"), "no field 'group'.*by="),
        (lambda p: load_groups(write(p, {"r.jsonl": '{"text": "x", "group": " "}'}) / "r.jsonl"), "is empty"),
        (lambda p: load_groups(write(p, {"r.jsonl": '{"text": "x", "group": "a"}\n{"t'}) / "r.jsonl"), "r.jsonl, line 2"),
        (lambda p: load_groups(p / "none"), "use"),
        (lambda p: load_groups({"A": p, "B": p}), "group A"),
        (lambda p: load_groups([p, p]), "two sources"),
        (lambda p: load_groups(write(p, {"A_1.txt": "x"}), max_documents=0), "max_documents=0"),
        (lambda p: load_groups(Source("x", "folder", str(p))), "one group"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_embedded_domains_are_groups():
    groups = load_groups(EMBEDDED, max_documents=2)
    assert list(groups) == list(EMBEDDED)
    assert all(len(ds) == 2 and d.domain == g for g, ds in groups.items() for d in ds)


@pytest.mark.skipif(
    not importlib.util.find_spec("datasets"), reason="relscale[datasets] is not installed"
)
@pytest.mark.parametrize("by", ["split", "nation", "config"])
def test_data_sets_by_split_column_and_configuration(tmp_path, monkeypatch, by):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.2, raising=False)
    rows = {"train": [("one", "Y"), ("two", "X")], "test": [("three", "X")]}
    write(tmp_path / "ice", {
        f"{split}.jsonl": "".join(json.dumps({"body": t, "nation": n}) + "\n" for t, n in own)
        for split, own in rows.items()
    })  # fmt: skip
    if by == "config":
        cards = [f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in rows]
        write(tmp_path / "ice", {"README.md": f"---\nconfigs:\n{''.join(cards)}---\n"})
    groups = load_groups(f"hf:{tmp_path / 'ice'}", by=by, text_field="body")
    if by in ("split", "config"):
        assert plain(groups) == {"test": ["three"], "train": ["one", "two"]}
    else:  # a column of the split that is read when none is named
        assert plain(groups) == {"X": ["two"], "Y": ["one"]}


@pytest.mark.skipif(not SPEECHES.is_dir(), reason=f"{SPEECHES} is not here")
def test_regional_speeches_by_file_name():
    groups = load_groups(SPEECHES)
    assert len(groups) == 14 and sum(map(len, groups.values())) == 488
    assert all(d.name.startswith(f"{g}_") for g, ds in groups.items() for d in ds)


# --- markup of ICE (all snippets written for this test) -------------------------------------------


@pytest.mark.parametrize(
    ("marked", "want"),
    [
        ("<I> One. </I> <I> Two. </I>", ["One.", "Two."]),
        ("<I> One. <I> Two.", ["One.", "Two."]),
        ("<h> Head </h> <p> Body </p>", ["Head\n\nBody"]),
        ("<ICE-SIN:W1A-002#12:1> A <bold>b</bold>c.", ["A bc."]),
        ("a <O> table </O> b", ["a b"]),
        ("a <X> not <it> ours </it> </X> b", ["a b"]),
        ("a <&> misprint </&>, b", ["a, b"]),
        ("a <unclear> two words </unclear>.", ["a."]),
        ("a <?> b </?> c", ["a b c"]),
        ("x<sp> 2 </sp>", ["x 2"]),
        ("note<fnr>3</fnr> <footnote> aside </footnote> on", ["note aside on"]),
        ("a <marginalia> good! </marginalia> b <del> c </del> d", ["a b d"]),
        ("<indig=Sinhala> gedara </indig=Sinhala> <foreign> ici </foreign>", ["gedara ici"]),
        ("<w> I 'm </w> <mention> here </mention> <@> Ann </@>", ["I 'm here Ann"]),
        ("den <l> sity and adv<l>ent", ["density and advent"]),
        ("<typeface:courier> code </typeface:courier> a<space>b", ["code a b"]),
        ("caf&eacute; &oumlaut;l &ecircumflex;t &AEligature; 3 &less-than; 4", ["café öl êt Æ 3 < 4"]),
        ("5 <*> pound sign </*> or <*>&square-root;</*>", ["5 £ or √"]),
        ("&ldquo;so&rdquo; &dash; R&amp;D", ["“so” – R&D"]),
        ("Fish & chips; 3 < 4 > 2 <- and ->", ["Fish & chips; 3 < 4 > 2 <- and ->"]),
        ("  <p>  </p> ", []),
    ],
)  # fmt: skip
def test_what_becomes_of_each_tag(marked, want):
    got, unknown = strip_ice(marked)
    assert got == want and not unknown


@pytest.mark.parametrize(
    ("marked", "written", "normalized"),
    [
        ("I <}> <-> goed </-> <+> went </+> </}>.", "I goed.", "I went."),
        ("<}> <-> the </-> <=> the </=> </}> end", "the the end", "the end"),
        ("part <+> of </+> it", "part it", "part of it"),
        ("<.> wr </.> write", "wr write", "write"),
        ("<(> any old body </(> <)> anybody </)>", "any old body", "anybody"),
    ],
)
def test_readings(marked, written, normalized):
    assert strip_ice(marked)[0] == [written]
    assert strip_ice(marked, reading="normalized")[0] == [normalized]


def test_broken_markup_costs_no_text():
    got, unknown = strip_ice("a <O> one </0> b <O> two </O> c </X> d <blink> e </blink> &zork;")
    assert got == ["a one b c d e &zork;"]
    assert unknown == {"</0>": 1, "<O>": 1, "</X>": 1, "<blink>": 1, "</blink>": 1, "&zork;": 1}
    with pytest.raises(UserError, match="reading="):
        strip_ice("a", reading="raw")


@settings(max_examples=60, deadline=None)
@given(st.text("abc .,\n", max_size=60))
def test_text_without_markup_keeps_its_words(text):
    got, unknown = strip_ice(text)
    assert " ".join(got).split() == text.split() and not unknown


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["w1", "w2", "<it>", "</it>", "<O>", "</O>", "<X>", "</X>", "<p>"]),
        max_size=14,
    )
)
def test_kept_words_are_those_outside_dropped_pairs(parts):
    """Against a plain reading of the rule: a closing tag drops back to the nearest open one of its name."""
    kept = list(parts)
    for i, part in enumerate(kept):
        if part in ("</O>", "</X>"):
            start = next((j for j in reversed(range(i)) if kept[j] == part.replace("/", "")), None)
            if start is not None:
                kept[start : i + 1] = [""] * (i + 1 - start)
    want = [part for part in kept if part.startswith("w")]
    assert " ".join(strip_ice(" ".join(parts))[0]).split() == want


def ice_folder(tmp_path):
    for name, text in {
        "ICE-AA/Corpus/W1B-001.TXT": "<I> Dear A. </I> <I> Dear B. </I>",
        "ICE-AA/Corpus/W2F-020.txt": "A story.",
        "ICE-AA/Corpus/S1A-001.txt": "<$A> spoken",
        "ICE-AA/Headers/W1B-001.hdr": "<gender> F </gender>",
        "ICE BB/W1A-001.txt": "Na\xefve.",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode("cp1252"))
    return tmp_path


def test_ice_folder(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = load_ice(ice_folder(tmp_path))
    assert {g: [(d.name, d.text) for d in ds] for g, ds in groups.items()} == {
        "ICE BB": [("W1A-001", "Naïve.")],
        "ICE-AA": [("W1B-001/1", "Dear A."), ("W1B-001/2", "Dear B."), ("W2F-020", "A story.")],
    }
    (tmp_path / "ICE BB" / "W1A-002.txt").write_text("odd <zork> one")
    with pytest.warns(UserWarning, match=r"W1A-002\.txt: <zork> 1"):
        load_ice(tmp_path)


def test_ice_prefixes_and_refusals(tmp_path):
    write(
        tmp_path / "flat",
        {"CAN_W1A-001.txt": "a", "ICE-SIN-W1A-001.txt": "b", "CAN_S1A-001.txt": "c"},
    )
    assert plain(load_ice(tmp_path / "flat")) == {"CAN": ["a"], "ICE-SIN": ["b"]}
    both = ice_folder(tmp_path / "both")
    write(both / "ICE-AA" / "tagged", {"W2F-020.txt": "A_AT story_NN"})
    with pytest.raises(UserError, match="W2F-020 twice"):
        load_ice(both)
    (both / "ICE-AA" / "tagged" / "W2F-020.txt").unlink()
    write(both / "ICE-EA", {"brdisc-k.txt": "x"})
    with pytest.raises(UserError, match=r"brdisc-k\.txt: not named like"):
        load_ice(both)
    with pytest.raises(UserError, match="no group"):
        load_ice(tmp_path / "none")


# --- scores --------------------------------------------------------------------------------------

TEXTS = st.text("abn é🙂.\n", min_size=1, max_size=90)


def test_no_skip_equals_score_documents(opened):
    """Bound: the same float32 losses summed alike; batches of other make-up may move the last digits."""
    groups = named(a=["the gap narrows " * 9, "ένα"], b=["and 🙂 widens again " * 4])
    scored = score_groups(opened, groups)
    for name, documents in groups.items():
        pairs = list(rg.encode_documents(documents, opened))
        want = score_documents(opened.model, pairs, window=24, context=6).bits_per_byte
        row = scored.summary().loc[name]
        np.testing.assert_allclose(row["bits_per_byte"], want.value, rtol=1e-6)
        np.testing.assert_allclose(row["stderr"], want.stderr, rtol=1e-4)
        assert row["n"] == want.n


@settings(max_examples=20, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=5), st.integers(0, 12))
def test_each_byte_and_each_token_once(opened, texts, skip):
    """A flat model costs log(vocab) a token, so bits are tokens times log2(vocab), exactly counted."""
    groups = named(a=texts[:1], b=texts[1:])
    counts = {d.name: rg.encode_documents([d], opened) for ds in groups.values() for d in ds}
    sizes = {name: next(pairs)[1][1:] for name, pairs in counts.items()}
    if any(all(len(sizes[d.name]) <= skip for d in ds) for ds in groups.values()):
        with pytest.raises(UserError, match="lower skip_tokens"):
            score_groups(flat(opened), groups, skip_tokens=skip)
        return
    rows = score_groups(flat(opened), groups, skip_tokens=skip).rows.set_index("document")
    assert set(rows.index) == {name for name, own in sizes.items() if len(own) > skip}
    for name, row in rows.iterrows():
        assert row["num_bytes"] == sizes[name][skip:].sum()
        assert row["num_tokens"] == len(sizes[name]) - skip
        np.testing.assert_allclose(row["nats"], row["num_tokens"] * math.log(280), rtol=1e-6)
    if skip == 0:
        assert rows["num_bytes"].sum() == sum(len(t.encode()) for t in texts)


def test_a_long_window_costs_a_short_text_nothing(opened):
    """Rows as long as Llama 3.1's window would hold 16 x 131,072 tokens, and their attention a terabyte."""
    groups = named(a=["the gap", "narrows"], b=["widens again"])
    short, long = (
        score_groups(replace(opened, window=w), groups, context=8).rows["nats"]
        for w in (64, 131_072)
    )
    np.testing.assert_allclose(long, short, atol=1e-4)


def test_concatenation_leaves_micro_unchanged(opened):
    """With a flat model and single-byte tokens, two documents cost what their concatenation costs."""
    bare = replace(flat(opened), tokenizer=train_tokenizer(["x"], 257))
    apart = named(a=["ab cd", "éé", "🙂!"], b=["one", "two three"])
    joined = named(a=["ab cdéé🙂!"], b=["onetwo three"])
    one, two = (score_groups(bare, g).summary()["bits_per_byte"] for g in (apart, joined))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert score_groups(bare, joined).summary()["stderr"].isna().all()


def toy(seed=0, sizes=(7, 40, 3)):
    random = np.random.default_rng(seed)
    rows = [
        {"group": f"g{i}", "document": str(j), "num_bytes": int(b), "num_tokens": int(b) // 4,
         "nats": float(b * random.gamma(20, 0.05) * (1 + i / 5))}
        for i, size in enumerate(sizes)
        for j, b in enumerate(random.lognormal(6, 1, size).astype(int) + 8)
    ]  # fmt: skip
    return GroupScores(pd.DataFrame(rows), "toy", 0)


def test_means_are_what_they_say():
    scores = toy()
    table, rows = scores.summary(), scores.rows
    bits = rows["nats"] / math.log(2)
    values = table["bits_per_byte"].iloc[:3]
    assert math.isclose(
        table.at["micro mean", "bits_per_byte"], bits.sum() / rows["num_bytes"].sum()
    )
    assert math.isclose(table.at["macro mean", "bits_per_byte"], values.mean())
    assert math.isclose(
        table.at["macro mean", "stderr"], math.sqrt((table["stderr"].iloc[:3] ** 2).sum()) / 3
    )
    weighted = np.average(bits / rows["num_bytes"], weights=rows["num_tokens"])
    assert math.isclose(table.at["micro mean", "token_weighted"], weighted)
    assert (table["n"] == [7, 40, 3, 50, 50]).all()
    assert GroupScores.from_json(scores.to_json()).summary().equals(table)


def test_standard_errors_are_the_spread_of_redrawn_documents():
    """240 redraws of the documents within groups; the spread of 240 is known to 4.6 %, so 18 % is 4 sigma."""
    drawn = [toy(seed, (60, 90, 80)).summary() for seed in range(240)]
    for row in ("g1", "macro mean", "micro mean"):
        for value, stderr in (
            ("bits_per_byte", "stderr"),
            ("token_weighted", "token_weighted_stderr"),
        ):
            spread = np.std([t.at[row, value] for t in drawn])
            claimed = np.mean([t.at[row, stderr] for t in drawn])
            assert 0.82 < claimed / spread < 1.18, (row, value, claimed / spread)


def test_scores_table_keeps_means_away_from_groups():
    runs = pd.DataFrame([
        {"run_id": r, "suite": "s", "corpus": "c", "status": "finished", "budget_flops": 1e18, "train_flops": 1e18,
         "num_params": 10, "num_tokens": 10} for r in ("x", "y")
    ])  # fmt: skip
    table = pd.concat([toy(i).scores(run_id=r, task="ice") for i, r in enumerate(("x", "y"))])
    joined = join_scores(runs, table)
    assert sorted(set(joined["group"])) == ["g0", "g1", "g2"]
    assert set(join_scores(runs, table, metric="bits_per_byte_macro")["group"]) == {"all"}
    assert not table["higher_is_better"].any() and set(table["task_version"]) == {"1"}


def test_refused_scores(opened):
    groups = named(a=["the gap"], b=["widens"])
    for change, message in (
        (lambda: score_groups(opened, {"a": [], "b": groups["b"]}), "group a: no text"),
        (lambda: score_groups(opened, {}), "no groups"),
        (lambda: score_groups(opened, groups, skip_tokens=-1), "skip_tokens=-1"),
        (lambda: score_groups(opened, groups, skip_tokens=500), "lower skip_tokens"),
    ):
        with pytest.raises(UserError, match=message):
            change()
    large = replace(opened, tokenizer=train_tokenizer(["the gap narrows and widens again"], 281))
    assert "vocabulary" in str(pytest.raises(UserError, score_groups, large, named(
        a=["the gap narrows and widens again"], b=["again"])).value)  # fmt: skip


def test_a_tokenizer_that_changes_text_is_refused(opened):
    from tokenizers import Tokenizer, normalizers

    lossy = Tokenizer.from_str(opened.tokenizer.to_str())
    lossy.normalizer = normalizers.NFC()
    with pytest.raises(UserError, match="b, b0: tokens stand for 2 bytes, the text has 3"):
        score_groups(replace(opened, tokenizer=lossy), named(a=["x"], b=["e\u0301"]))


def test_plot():
    ax = toy().plot()
    assert ax.get_xlabel() == "bits per byte (toy)" and len(ax.get_yticklabels()) == 3
    groups = toy().summary().iloc[:-2].sort_values("bits_per_byte", ascending=False)
    bars = np.array(ax.containers[0].lines[2][0].get_segments())[:, :, 0]
    half = 1.96 * groups["stderr"].to_numpy()  # of a normal law, 95 %
    np.testing.assert_allclose(np.diff(bars)[:, 0], 2 * half, rtol=1e-9)


def test_import_is_light():
    heavy = "{'jax', 'datasets', 'tokenizers', 'matplotlib', 'scipy'}"
    code = f"import sys, relscale.eval.groups; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_windows_of_texts_resume_after_a_kill(tmp_path, monkeypatch):
    """Killed after its third window, a run computes the others alone; in calls of another shape, hence the 1e-6."""
    import relscale.eval.windows as windows
    from relscale.model.open import untrained_model

    texts = {
        g: [Document(g, f"{g}{i}", f"{g} {i} ran down the brae. " * 12) for i in range(2)]
        for g in "ab"
    }
    opened = untrained_model([d.text for own in texts.values() for d in own], vocab=270, window=32)
    whole = score_groups(opened, texts).rows
    results, real, asked = tmp_path / "windows.jsonl", windows.score_tokens, []

    def killed(opened, requests, **engine):
        asked.append(len(requests))
        for done, answer in enumerate(real(opened, requests, **engine)):
            if done == 3 and len(asked) == 1:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(windows, "score_tokens", killed)
    with pytest.raises(KeyboardInterrupt):
        score_groups(opened, texts, results=results)
    with open(results, "a") as file:
        file.write('{"key": "cut off')
    again = score_groups(opened, texts, results=results).rows
    assert asked[1] == asked[0] - 3
    np.testing.assert_allclose(again["nats"], whole["nats"], rtol=1e-6)
    assert score_groups(opened, texts, results=results).rows.equals(again) and asked[2] == 0
