"""Sources: every kind gives the same documents, in constant memory, with errors that name the place."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.text import rows
from relscale.text import sources as rs
from relscale.text.documents import (
    PIECE_BYTES,
    Document,
    documents_fingerprint,
    hash_order,
    total_bytes,
)
from relscale.text.embedded import EMBEDDED, SKIPPED_FOLDERS
from relscale.text.rows import text_rows
from relscale.text.sources import Source, as_source, load_domain, read_documents


@pytest.fixture(scope="module")
def chapters():
    return load_domain("bible")


def compressed(path, data: bytes) -> None:
    """Write bytes as the suffix says; Zstandard in two frames, as parallel compressors do."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]))
    elif path.suffix in (".zst", ".zstd"):
        path.write_bytes(
            b"".join(pa.compress(part, "zstd", asbytes=True) for part in (data[:1000], data[1000:]))
        )
    else:
        path.write_bytes(data)


def json_lines(documents, field: str = "text") -> bytes:
    return "".join(json.dumps({"n": d.name, field: d.text}) + "\n" for d in documents).encode()


def test_import_is_light():
    heavy = "{'jax', 'datasets', 'pyarrow', 'tokenizers', 'pandas', 'matplotlib'}"
    code = f"import sys, relscale.text.sources; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- embedded text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", EMBEDDED)
def test_embedded_domains_are_real_and_clean(domain):
    documents = load_domain(domain, max_bytes=300_000)
    assert 200_000 < sum(d.num_bytes for d in documents) <= 300_000
    assert len({d.name for d in documents}) == len(documents)
    assert all(d.text.strip() == d.text and "\r" not in d.text for d in documents)
    parts = {part for d in documents for part in d.name.split("/")}
    assert domain == "bible" or not parts & SKIPPED_FOLDERS


def test_the_sample_of_the_bible_does_not_change_between_releases():
    """Its package has one release, so a change here would be ours, and would change every study."""
    documents = load_domain("bible", max_bytes=300_000, seed=2)
    assert documents_fingerprint(documents) == "eef2936ac0089fb7"


def test_licences_have_no_metadata():
    licences = load_domain("licences", max_bytes=800_000)
    assert not [
        d.name for d in licences if "spdx_license_key:" in d.text or d.text.startswith("---\nkey")
    ]


# --- every kind gives the same text ----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.zstd", ".parquet"])
@pytest.mark.parametrize("field", ["text", "body"])
def test_files_and_folders_of_shards(tmp_path, chapters, suffix, field):
    folder = tmp_path / "corpus"
    folder.mkdir()
    parts = [chapters[:30], chapters[30:50]]
    for i, part in enumerate(parts):
        path = folder / f"shard-{i}{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"n": range(len(part)), field: [d.text for d in part]}), path)
        else:
            compressed(path, json_lines(part, field))
    kind = as_source(folder).kind
    one = list(
        read_documents(Source("x", kind, str(folder / f"shard-1{suffix}"), text_field=field))
    )
    both = list(read_documents(Source("x", kind, str(folder), text_field=field)))
    assert [d.text for d in one] == [d.text for d in parts[1]]
    assert [d.text for d in both] == [d.text for d in chapters[:50]]
    assert both[30].name == f"shard-1{suffix} {one[0].name}"
    assert len({d.name for d in both}) == 50
    picked = Source("x", kind, str(folder), text_field=field, files="shard-0*")
    assert [d.text for d in read_documents(picked)] == [d.text for d in parts[0]]
    if field == "text":
        assert as_source(folder / f"shard-1{suffix}").domain == "shard-1"
        assert [d.text for d in read_documents(folder)] == [d.text for d in both]


def test_plain_files_are_sampled_by_name_and_seed_not_by_file_system(tmp_path):
    names = [f"{i}.txt" for i in range(30)]
    for folder, order in (("a/mine", names), ("b/mine", names[::-1])):
        (tmp_path / folder).mkdir(parents=True)
        for name in order:
            (tmp_path / folder / name).write_text(f"text of {name}")
    first = load_domain(tmp_path / "a/mine")
    assert first == load_domain(tmp_path / "b/mine")
    assert first != load_domain(tmp_path / "a/mine", seed=1)
    assert [d.name for d in first] != sorted(names)
    assert [d.name for d in read_documents(tmp_path / "a/mine")] == sorted(names)
    sample = load_domain(tmp_path / "a/mine", max_bytes=100)
    assert sample == first[: len(sample)]
    assert total_bytes(sample) <= 100 < total_bytes(first[: len(sample) + 1])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 400), st.integers(0, 9)
)
def test_one_pass_takes_what_sorting_everything_would(sizes, max_bytes, seed):
    documents = [Document("x", f"line {i}", "a" * size) for i, size in enumerate(sizes)]
    by_name = {d.name: d for d in documents}
    ordered = iter([by_name[name] for name in hash_order(by_name, seed, "x")])
    assert rs._smallest_hashes(iter(documents), max_bytes, seed) == rs._up_to(ordered, max_bytes)


# --- constant memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, chapters, suffix):
    """80 MB of text against 8: peak memory may differ by 15 MB, a fifth of the text, and not by all of it."""
    peaks = []
    for times in (2, 20):
        path = tmp_path / f"{times}{suffix}"
        if suffix == ".parquet":
            table = pa.table({"text": [d.text for d in chapters]})
            with pq.ParquetWriter(path, table.schema) as writer:
                for _ in range(times):
                    writer.write_table(table)
        else:
            with pa.CompressedOutputStream(str(path), "zstd") as file:
                for _ in range(times):
                    file.write(json_lines(chapters))
        code = (
            "import sys, resource; from relscale.text.sources import load_domain, read_documents\n"
            "n = sum(d.num_bytes for d in read_documents(sys.argv[1]))\n"
            "assert len(load_domain(sys.argv[1], max_bytes=100_000)) > 1\n"
            "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        num_bytes, peak_kib = map(int, done.stdout.split())
        assert num_bytes == times * total_bytes(chapters)
        peaks.append(peak_kib * 1024 / 1e6)
    assert 18 * total_bytes(chapters) / 1e6 > 70
    assert peaks[1] - peaks[0] < 15, peaks


# --- errors name the place -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        (b"{", "not JSON: .* at character 2"),
        (b"[]", "a list, not an object"),
        (b'{"txt": "x", "id": 3}', "no field 'text' among txt, id; .* text_field"),
        (b'{"text": 3}', "'text' is a int, not a text"),
        (b'{"text": null}', "'text' is a NoneType, not a text"),
        (b'{"text": "\\ud800"}', "half a character"),
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_bad_line_is_named(tmp_path, line, message, suffix):
    path = tmp_path / f"shard-003{suffix}"
    compressed(path, b'{"text": "one"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"shard-003{suffix}, line 3: {message}") as caught:
        load_domain(path)
    assert "\n" not in str(caught.value)


def test_broken_and_empty_files_are_named(tmp_path, chapters):
    for suffix in (".jsonl.gz", ".jsonl.zst", ".parquet"):
        path = tmp_path / f"cut{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"text": [d.text for d in chapters[:300]]}), path)
        else:
            compressed(path, json_lines(chapters[:300]))
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(UserError, match=rf"cut\{suffix}, .*broken"):
            list(read_documents(path))
    for name in ("none.jsonl", "none.jsonl.zst", "none.parquet"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"{name}: empty file"):
            list(read_documents(tmp_path / name))
    (tmp_path / "blank.jsonl").write_text('\n{"text": " "}\n')
    for read in (load_domain, lambda path: list(read_documents(path))):
        with pytest.raises(UserError, match="no text"):
            read(tmp_path / "blank.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text"):
        load_domain(tmp_path / "empty")
    (tmp_path / "empty" / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 at byte 3"):
        load_domain(tmp_path / "empty")
    pq.write_table(pa.table({"body": ["a"], "text": [3]}), tmp_path / "odd.parquet")
    with pytest.raises(UserError, match="row 0 .from 0.: 'text' is a int"):
        list(read_documents(tmp_path / "odd.parquet"))
    with pytest.raises(UserError, match=r"odd\.parquet: no field 'content' among body, text"):
        list(read_documents(Source("x", "parquet", str(tmp_path / "odd.parquet"), "content")))


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    (tmp_path / "mixed").mkdir()
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / "mixed" / name).write_text("x")
    with pytest.raises(
        UserError, match=r"\.txt \(a\.txt\), \.jsonl \(b\.jsonl\) files; keep one kind"
    ):
        as_source(tmp_path / "mixed")
    for domain in ("../x", "a/b", "", ".hidden", "a\0b"):
        with pytest.raises(UserError, match="domain"):
            Source(domain, "jsonl", "x.jsonl")
    for path in ("../x", "a/../b", "a/b/c", "/etc", "name", "a/.."):
        if not os.path.isdir(path):
            with pytest.raises(UserError, match="owner/name"):
                Source("x", "huggingface", path)
    for files in ("../*.txt", "a/../../b", "/etc/*", "~/x"):
        with pytest.raises(UserError, match="leads out"):
            Source("x", "folder", str(tmp_path), files=files)
    with pytest.raises(UserError, match="belong to kind huggingface"):
        Source("x", "jsonl", "x.jsonl", split="train")
    with pytest.raises(UserError, match="kind 'csv'"):
        Source("x", "csv", "x.csv")


# --- Hugging Face ----------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    """Also where the library is installed: the finder is told that it is not."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "datasets" else find(name, *a)
    )
    for name in rs.PRESETS:
        with pytest.raises(UserError, match=r"pip install 'relscale\[datasets\]'"):
            load_domain(name, max_bytes=1000)


def test_a_dataset_needs_a_limit():
    with pytest.raises(UserError, match="give max_bytes"):
        load_domain("comma")


@pytest.fixture(params=["parquet", "jsonl.gz"])
def dataset(request, tmp_path, chapters, monkeypatch):
    """A folder like a dataset on the Hub: a card that names two configurations, and their shards."""
    pytest.importorskip("datasets", reason="relscale[datasets] is not installed")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.2, raising=False)
    root = tmp_path / "hub" / "held"
    card = "---\nconfigs:\n"
    for config, start in {"High": 0, "Medium": 60}.items():
        (root / config).mkdir(parents=True)
        card += f"- config_name: {config}\n  data_files:\n  - path: {config}/*\n    split: train\n"
        for i in range(3):
            part = chapters[start + 20 * i : start + 20 * (i + 1)]
            path = root / config / f"part_{i}.{request.param}"
            if request.param == "parquet":
                pq.write_table(pa.table({"n": range(20), "text": [d.text for d in part]}), path)
            else:
                compressed(path, json_lines(part))
    (root / "README.md").write_text(card + "---\n")
    return root


@pytest.mark.parametrize("config, start", [("High", 0), ("Medium", 60)])
def test_datasets_are_streamed(dataset, chapters, config, start):
    source, theirs = Source("h", "huggingface", str(dataset), config=config), chapters[start:][:60]
    read = list(read_documents(source))
    assert [d.text for d in read] == [d.text for d in theirs]
    assert [d.name for d in read] == [f"row {i}" for i in range(60)]
    sample = load_domain(source, max_bytes=40_000, seed=1)
    assert sample == load_domain(source, max_bytes=40_000, seed=1)
    assert {d.text for d in sample} < {d.text for d in theirs}
    assert 20_000 < total_bytes(sample) <= 40_000
    assert sample != load_domain(source, max_bytes=40_000, seed=2)


def test_part_of_a_dataset(dataset, chapters):
    source = Source("held", "huggingface", str(dataset), files="High/part_1*")
    assert [d.text for d in read_documents(source)] == [d.text for d in chapters[20:40]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": "Low"}, "Low"),
        ({"config": "High", "split": "test"}, "test"),
        (
            {"config": "High", "text_field": "content"},
            "row 0 .from 0.: no field 'content' among n, text",
        ),
        ({"path": "nobody/nothing"}, "dataset nobody/nothing.* gated dataset needs"),
    ],
)
def test_errors_of_datasets_are_one_line(dataset, change, message):
    source = Source("held", "huggingface", **({"path": str(dataset)} | change))
    with pytest.raises(UserError, match=message) as caught:
        next(read_documents(source))
    assert "\n" not in str(caught.value)


def test_a_name_is_the_place_in_the_file(tmp_path):
    """Lines are counted from 1 with the blank ones, as an editor does; rows of a table from 0, as Arrow does."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "three"}\n')
    assert [d.name for d in read_documents(tmp_path / "a.jsonl")] == ["line 1", "line 3"]
    pq.write_table(pa.table({"text": ["one", "two", "three"]}), tmp_path / "b.parquet")
    names = [d.name for d in read_documents(tmp_path / "b.parquet")]
    assert names == ["row 0", "row 1", "row 2"]


# --- files as the world writes them ----------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_byte_order_marks_are_no_text(tmp_path, encoding, suffix):
    """Also of UTF-16 and UTF-32, with the line ends of Windows."""
    texts = ["first, naïve\n\nsecond line", "κόσμε 🙂", "third"]
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # this codec writes none
    folder = tmp_path / "corpus"
    folder.mkdir()
    if suffix == ".txt":
        for i, text in enumerate(texts):
            content = (mark + text).replace("\n", "\r\n") + "\r\n"
            (folder / f"{i}.TXT").write_bytes(content.encode(encoding))
    elif suffix == ".jsonl":
        lines = "\r\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts)
        (folder / "a.jsonl").write_bytes((mark + lines).encode(encoding))
    else:
        content = mark + json.dumps([{"text": t} for t in texts], ensure_ascii=False, indent=2)
        (folder / "a.json").write_bytes(content.encode(encoding))
    assert [d.text for d in read_documents(folder)] == texts
    assert sorted(d.text for d in load_domain(folder)) == sorted(texts)


def test_marks_of_files_that_were_joined_and_of_texts_in_fields(tmp_path):
    part = b"\xef\xbb\xbf" + b'{"text": "one"}\r\n'
    (tmp_path / "joined.jsonl").write_bytes(part * 2 + json.dumps({"text": "\ufefftwo"}).encode())
    assert [d.text for d in read_documents(tmp_path / "joined.jsonl")] == ["one", "one", "two"]


def test_utf_16_without_a_mark_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a.txt").write_bytes("plain text".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"a\.txt: full of zero bytes"):
        load_domain(tmp_path / "a")
    (tmp_path / "b.jsonl").write_bytes('{"text": "plain"}\n'.encode("utf-16-le"))
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: zero bytes"):
        load_domain(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_bytes('{"text": "plain"}\n'.encode("utf-16")[:-1])
    with pytest.raises(UserError, match=r"c\.jsonl, after line .*not UTF-16"):
        load_domain(tmp_path / "c.jsonl")


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst", ".GZ"])
@pytest.mark.parametrize("end", [".jsonl", ".ndjson", ".json", ".txt"])
def test_names_and_compressions(tmp_path, end, packed):
    """Each in two members or frames where it has them, as parallel compressors write."""
    texts = [f"document {i}\u2028 of \u0085 three" for i in range(3)]
    data = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()
    data = "\n<|endoftext|>\n".join(texts).encode() if end == ".txt" else data
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda part: pa.compress(part, "zstd", asbytes=True),
    }[packed.lower()]
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / f"c4.00000-of-00001{end}{packed}"
    path.write_bytes(pack(data[:40]) + pack(data[40:]))
    assert as_source(path).domain == "c4.00000-of-00001"
    assert [d.text for d in read_documents(path)] == texts
    if end != ".txt":
        assert [d.text for d in read_documents(path.parent)] == texts
    if packed:
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError, match="broken|no text|JSON"):
            list(read_documents(path))


@pytest.mark.parametrize(
    "content, texts",
    [
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"]),
        ('[\n{"text": "a"},\n{"text": "b"}\n]\n', ["a", "b"]),
        ('{\n "text": "a",\n "n": [1, 2]\n}\n', ["a"]),
        ('\n{"text": "a"}\n\n{"text": "b"}', ["a", "b"]),
        ('{"text": "a"}', ["a"]),
    ],
)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_json_in_lines_or_whole(tmp_path, content, texts, name):
    (tmp_path / name).write_text(content)
    assert [d.text for d in read_documents(tmp_path / name)] == texts


@pytest.mark.parametrize(
    "content, message",
    [
        ('[{"text": "a"}, "b"]', "item 1 .from 0.: a str, not an object"),
        ('[{"text": "a"}, {"txt": "b"}]', "item 1 .from 0.: no field 'text' among txt"),
        ('[["a"], ["b"]]', "item 0 .from 0.: a list, not an object"),
        ('["a"]\n["b"]\n', "line 1: a list, not an object"),
        ('{"text": "a"}\n{"text": "b"', "line 2: not JSON"),
        ('[\n{"text": "a"},\n', "line 1: not JSON"),
    ],
)
def test_slips_in_json_are_named(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_documents(tmp_path / "x.json"))


def test_files_that_are_not_read_are_said(tmp_path):
    for name in ("a.md", "b.pdf", ".c.txt", "d/._e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"2 files that are not read \(\.md, \.pdf\); give \.txt"):
        as_source(tmp_path)
    (tmp_path / "f.txt").write_text("seen")
    assert [d.name for d in read_documents(tmp_path)] == ["f.txt"]


def test_documents_without_text_are_counted(tmp_path):
    rows = [{"text": t} for t in ("a", " \n", "b", "", "\ufeff")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sample = rs.sample_domain(tmp_path / "a.jsonl")
    assert (sorted(d.text for d in sample.documents), sample.num_empty) == (["a", "b"], 3)


# --- one long text ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["word ", "\n", "\n \n", "κ", "x" * 700, "\r\n"]), max_size=400),
    st.integers(1, 50),
)
def test_a_long_text_is_cut_without_loss(tmp_path_factory, parts, times):
    path = tmp_path_factory.mktemp("text") / "input.txt"
    text = "".join(parts) * times + "end"
    path.write_bytes(text.encode())
    pieces = [piece for _, piece in text_rows(path, "")]
    assert "".join(pieces) == text.replace("\r\n", "\n")
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert all(len(piece) >= PIECE_BYTES // 2 for piece in pieces[:-1])


def test_a_long_text_is_cut_at_the_best_place(tmp_path):
    """At a blank line rather than a line end, there rather than at a space, and nowhere else without need."""
    for best, joints in (("\n\n", ["\n\n", "\n", " "]), ("\n", ["\n", " "]), (" ", [" "])):
        rng = np.random.default_rng(0)
        words = ["".join(map(chr, rng.integers(97, 123, 7))) for _ in range(20_000)]
        weights = np.array([1, 3, 20])[-len(joints) :]
        chosen = rng.choice(len(joints), 20_000, p=weights / weights.sum())
        text = "".join(w + joints[c] for w, c in zip(words, chosen, strict=True))
        (tmp_path / "a.txt").write_text(text)
        pieces = [piece for _, piece in text_rows(tmp_path / "a.txt", "")]
        assert all(piece.endswith(best) for piece in pieces[:-1])


@pytest.mark.parametrize("joint", ["<|endoftext|>", "\n<|endoftext|>\n", "\n\n<|endoftext|>"])
def test_a_separator_parts_stories_wherever_it_falls(tmp_path, monkeypatch, joint):
    """Also when it lies across the blocks in which a file is read: here of 7 characters."""
    stories = [f"story {i}\n\nwith a blank line" for i in range(40)]
    (tmp_path / "tales.txt").write_text(joint.join([*stories, ""]))
    real = io.TextIOWrapper
    monkeypatch.setattr(
        rows.io, "TextIOWrapper", type("W", (real,), {"read": lambda s, n: real.read(s, 7)})
    )
    documents = list(read_documents(tmp_path / "tales.txt"))
    assert [d.text for d in documents] == stories
    assert documents[3].name == "part 3" and documents[0].domain == "tales"
