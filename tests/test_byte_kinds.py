"""Kinds of bytes: the sorting against a loop over characters, the bits against tokens one by one, the jackknife against a loop."""

import math

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.eval.byte_kinds import KINDS, KindScores, kinds_of_bytes, score_byte_kinds
from relscale.eval.groups import encode_documents, score_groups
from relscale.eval.windows import rolling_token_nats
from relscale.model.open import untrained_model
from relscale.text.documents import Document

TEXT = "Näive α-β: see http://x.org/a?b=1, www.y.net or 1,234.5 (v2.)\n\tÜber 10% 😀  end"


def slow_kinds(text):
    """Character by character, links and numbers found by splitting at spaces and by hand."""
    kinds = []
    for char in text:
        if ord(char) > 127:
            kind = "beyond ASCII"
        elif char in " \t\n\r\f\v":
            kind = "whitespace"
        elif char.isalpha():
            kind = "letters"
        elif char.isdigit():
            kind = "numbers"
        else:
            kind = "signs"
        kinds += [kind] * len(char.encode())
    return kinds


def test_kinds_against_a_loop():
    plain = "Näive α-β: (v2 )\n\tÜber 10% 😀  end"  # no link, no point within a number
    assert [KINDS[k] for k in kinds_of_bytes(plain)] == slow_kinds(plain)
    found = kinds_of_bytes(TEXT)
    assert len(found) == len(TEXT.encode())
    picked = {k: bytes(b for b, f in zip(TEXT.encode(), found, strict=True) if KINDS[f] == k) for k in KINDS}  # fmt: skip
    assert picked["links"] == b"http://x.org/a?b=1,www.y.net"
    assert picked["numbers"] == b"1,234.5210"
    assert kinds_of_bytes("").size == 0


@pytest.fixture(scope="module")
def scored():
    texts = {"a": [TEXT * 3, "Plain words alone. " * 5], "b": ["x = 12  # http://z.org\n" * 6, "y = [1, 2]\n" * 4, "z"]}  # fmt: skip
    groups = {g: [Document(g, f"{g}{i}", t) for i, t in enumerate(own)] for g, own in texts.items()}
    opened = untrained_model([t for own in texts.values() for t in own] * 9, window=48)
    return opened, groups, score_byte_kinds(opened, groups)


def test_bits_are_dealt_to_the_bytes_of_their_token(scored):
    opened, groups, found = scored
    flat = [d for own in groups.values() for d in own]
    encoded = list(encode_documents(flat, opened))
    nats = rolling_token_nats(opened, encoded, context=opened.window // 4)
    for document, (_, sizes), loss in zip(flat, encoded, nats, strict=True):
        kinds, at, want = kinds_of_bytes(document.text), 0, dict.fromkeys(KINDS, 0.0)
        for size, spent in zip(sizes[1:], loss, strict=True):
            for k in kinds[at : at + size]:
                want[KINDS[k]] += float(spent) / int(size)
            at += size
        own = found.rows[found.rows["document"] == document.name].set_index("kind")
        assert at == document.num_bytes == own["num_bytes"].sum()
        np.testing.assert_allclose(own["nats"], pd.Series(want), rtol=1e-6, atol=1e-9)
    whole = score_groups(opened, groups).rows.set_index("document")["nats"]
    np.testing.assert_allclose(found.rows.groupby("document")["nats"].sum(), whole.sort_index(), rtol=1e-5)  # fmt: skip


def test_parts_of_a_gap_add_up_and_their_errors_are_a_jackknife(scored):
    found = scored[2]
    table, other = found.gap("a", "b"), found.gap("b", "a")
    sums = found.rows.groupby("group")[["nats", "num_bytes"]].sum()
    bits = sums["nats"] / sums["num_bytes"] / math.log(2)
    assert table.loc["all", "difference"] == pytest.approx(bits["a"] - bits["b"])
    np.testing.assert_allclose(table["rate"] + table["mix"], table["difference"])
    np.testing.assert_allclose(table, other * np.array([-1, 1, -1, 1, -1, 1]), atol=1e-12)

    rows, spread = found.rows, 0.0
    for group in ("a", "b"):
        names = rows.loc[rows["group"] == group, "document"].unique()
        left = [
            KindScores(rows[rows["document"] != name], "").gap("a", "b")[["rate", "mix", "difference"]]
            for name in names
        ]  # fmt: skip
        left = np.stack(left)
        spread = spread + (len(names) - 1) / len(names) * ((left - left.mean(axis=0)) ** 2).sum(axis=0)  # fmt: skip
    errors = table[["rate_stderr", "mix_stderr", "difference_stderr"]]
    np.testing.assert_allclose(errors, np.sqrt(spread), atol=1e-9)


def test_a_kind_that_one_group_lacks_is_mix(scored):
    table = scored[2].gap("a", "b")
    assert table.loc["beyond ASCII", "rate"] == 0 and table.loc["beyond ASCII", "mix"] != 0
    summary = scored[2].summary()
    assert ("b", "beyond ASCII") not in summary.index
    assert summary["share_of_bytes"].groupby("group").sum().round(9).eq(1).all()


def test_slips(scored):
    with pytest.raises(UserError, match="no documents"):
        score_byte_kinds(scored[0], {})
    with pytest.raises(UserError, match="no group 'c': there is a, b"):
        scored[2].gap("a", "c")
