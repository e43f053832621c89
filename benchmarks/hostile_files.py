"""Files and names that are made to do harm, each with who reads it: a list, and what reading one costs.

`benchmarks/faults.py --many hostile` runs them all and writes data/faults/hostile.csv; `tests/faults/test_bombs.py` runs
some. A case is a folder that is filled by `make`, and a call, `read`, which answers with what it read, or raises. Each is
read in a forked child, so that memory and time are its own.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import relscale as rs
import relscale.lm_eval
import relscale.model.hub
import relscale.report
from relscale.cli import main
from relscale.core import UserError
from relscale.files import read_sheet
from relscale.plan.recipes import load_plan
from relscale.sweep.store import connect
from relscale.tables import read_as_is
from relscale.text.sources import read_documents

MOST_MB, MOST_CPU_S, LONGEST = 600, 30, 900
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
           ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True)}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One hostile file, and the call that meets it."""

    kind: str
    what: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def sheet(path: Path):
    return len(read_sheet(path).frame)


def table(path: Path):
    return len(read_as_is(path))


def documents(path: Path):
    return sum(len(each.text) for each in read_documents(path))


def harness(path: Path):
    from relscale.lm_eval import from_lm_eval

    return len(from_lm_eval(path, runs={"m": "r"}).scores)


def weights(path: Path):
    from relscale.model.hub import load_hf

    return load_hf(path.parent)


def written(data: bytes, times: int = 1) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data * times)


# ---- bombs


def packed_bombs() -> Iterator[Case]:
    """Files that unpack to a hundred times or more of what their size explains."""
    lines = {
        "one line": b"a" * 2**20,
        "many lines": b'{"text": "a"}\n' * 2**16,
        "commas": b"," * 2**20,
    }
    for suffix, pack in PACKERS.items():
        for megabytes in (300,):
            for what, block in lines.items():

                def make(path, pack=pack, block=block, megabytes=megabytes):
                    part = pack(block * (10 * 2**20 // len(block)))
                    path.write_bytes(
                        part * (megabytes // 10)
                    )  # each packer reads parts one after the other

                for form, read in {"csv": sheet, "jsonl": sheet, "txt": documents}.items():
                    if suffix == ".zst" and read is sheet:
                        continue
                    yield Case("packed bomb", f"{what}, {megabytes} MB.{form}{suffix}", make, read)


def workbook(of_sheet: Callable[[], bytes], extra: Callable[[], dict] = dict):
    """A workbook whose one sheet is this XML; made late, since it may be large."""

    def make(path):
        sheet_xml = of_sheet()
        plain = io.BytesIO()
        pd.DataFrame({"a": [1]}).to_excel(plain, index=False)
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, sheet_xml if name.startswith("xl/worksheets/sheet") else content)
            for name, content in extra().items():
                new.writestr(name, content)

    return make


def workbooks() -> Iterator[Case]:
    head = b'<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    foot = b"</sheetData></worksheet>"
    wide = b"".join(
        b'<row r="%d"><c r="XFD%d"><v>1</v></c></row>' % (i, i) for i in range(1, 30_000)
    )
    far = b'<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    laughs = (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
              + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
              + b"]><worksheet><sheetData><row><c><v>&j;</v></c></row></sheetData></worksheet>")  # fmt: skip
    outside = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><worksheet>&a;</worksheet>'
    cases = {
        "a sheet of 200 MB": workbook(lambda: head + b" " * (2 * 10**8) + foot),
        "a part of 200 MB beside it": workbook(
            lambda: head + foot, lambda: {"xl/media/x.png": bytes(2 * 10**8)}
        ),
        "30,000 rows of one cell in column XFD": workbook(lambda: head + wide + foot),
        "a cell in the last row and column": workbook(lambda: head + far + foot),
        "entities in entities": workbook(lambda: laughs),
        "an entity that is a file": workbook(lambda: outside),
        "a name that leaves the folder": workbook(
            lambda: head + foot, lambda: {"../../evil.txt": b"x"}
        ),
        "no sheet": written(b"PK\5\6" + bytes(18)),
        "cut in half": written(b"PK\3\4" + bytes(200)),
        "XML 100,000 deep": workbook(lambda: head + b"<row>" * 100_000),
    }
    for what, make in cases.items():
        yield Case("workbook", f"{what}.xlsx", make, sheet)


def inspect_logs() -> Iterator[Case]:
    for what, content in {
        "a header of 200 MB": (b" ", 2 * 10**8), "a header 10^6 deep": (b"[", 10**6), "no header": None,
        "a header that is a number": (b"1", 5000),
    }.items():  # fmt: skip

        def make(path, content=content):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
                part, times = content or (b"", 0)
                log.writestr("header.json" if content else "x", part * times)

        yield Case("log of a harness", f"{what}.eval", make, harness)


def deep_json() -> Iterator[Case]:
    readers = {"table.json": sheet, "table.jsonl": sheet, "results_x.json": harness, "text.jsonl": documents,
               "plan.json": lambda path: load_plan(path.read_text()), "rows.json": table}  # fmt: skip
    for depth in (10_000, 10**6, 10**7):
        for opened in (b"[", b'{"a":'):
            for name, read in readers.items():
                yield Case(
                    "deep JSON",
                    f"{opened.decode()} x {depth}, {name}",
                    written(opened * depth),
                    read,
                )


def parquets() -> Iterator[Case]:
    def rows(count, text=False, columns=1, **how):
        def make(path):
            kind = pa.dictionary(pa.int32(), pa.string()) if text else pa.int64()
            name = ["x" * 1000] if text else None
            schema = pa.schema([(f"c{i}", kind) for i in range(columns)])
            with pq.ParquetWriter(path, schema, **how) as file:
                block = min(count, 10**7)
                zeros = pa.array(np.zeros(block, np.int32 if text else np.int64))
                column = pa.DictionaryArray.from_arrays(zeros, pa.array(name)) if text else zeros
                for _ in range(count // block):
                    file.write_table(pa.table([column] * columns, schema))

        return make

    def page(path):
        pq.write_table(
            pa.table({"a": [b"\0" * 2**28] * 2}), path, compression="zstd", use_dictionary=False
        )

    def declared(count):
        """The number of rows in the footer is another than what the pages hold."""

        def make(path):
            pq.write_table(pa.table({"a": np.arange(77, dtype=np.int64)}), path)
            data = bytearray(path.read_bytes())
            size = struct.unpack("<I", data[-8:-4])[0]
            footer = bytes(data[-8 - size : -8])
            grown = footer.replace(_zigzag(77), _zigzag(count))
            path.write_bytes(
                bytes(data[: -8 - size]) + grown + struct.pack("<I", len(grown)) + b"PAR1"
            )

        return make

    makers = {
        "200 million rows of one number": rows(2 * 10**8), "20 million rows of one number": rows(2 * 10**7),
        "20 million rows of one text of 1 kB": rows(2 * 10**7, text=True), "200,000 rows of 100 columns": rows(2 * 10**5, columns=100),
        "200 million rows, zstd": rows(2 * 10**8, compression="zstd"), "half a gigabyte of zeros in a page": page,
        "10^9 rows declared, 77 there": declared(10**9), "2^62 rows declared, 77 there": declared(2**62),
        "-1 rows declared": declared(-1),
    }  # fmt: skip
    for what, make in makers.items():
        for form, read in {"sheet": sheet, "table": table, "documents": documents}.items():
            yield Case("Parquet", f"{what}, as {form}.parquet", make, read)


def _zigzag(value: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    left, found = (value << 1) ^ (value >> 63), bytearray()
    while True:
        found.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
        if not left:
            return bytes(found)


def plain_tables() -> Iterator[Case]:
    cases = {
        "a header of 10^6 names": b",".join(b"c%d" % i for i in range(10**6)) + b"\n" + b"," * (10**6 - 1) + b"\n",
        "a cell of 50 MB": b"a,b\n" + b"x" * 5 * 10**7 + b",1\n",
        "a quote that never ends": b'a,b\n"' + b"x,\n" * 10**6,
        "rows of growing length": b"\n".join(b"," * i for i in range(2000)),
        "zero bytes": bytes(10**6), "a name 10^5 times": b",".join([b"a"] * 10**5) + b"\n1\n",
        "10^6 quotes": b'"' * 10**6, "half a UTF-16 text": "a,b\n1,2".encode("utf-16")[:-1],
        "a number of 10^6 digits": b"a,b\n1,1" + b"0" * 10**6 + b"\n",
    }  # fmt: skip
    for what, data in cases.items():
        yield Case("table of text", f"{what}.csv", written(data), sheet)


# ---- weights, names that leave a folder, links


def safetensors(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 300, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1e6, "rope_scaling": None,
    "layer_types": ["full_attention", "full_attention"], "use_sliding_window": False, "max_window_layers": 28,
    "partial_rotary_factor": 1, "attention_bias": False,
}  # fmt: skip
WORD = "model.embed_tokens.weight"


def weight_files() -> Iterator[Case]:
    def one(dtype="F32", shape=(2,), start=0, end=8):
        return {WORD: {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}}

    def model(content, config=CONFIG, name="model.safetensors"):
        def make(path):
            path.write_text(json.dumps(config))
            (path.parent / name).write_bytes(content)

        return make

    files = {
        "a header of a terabyte": safetensors(one(), bytes(8), 10**12),
        "a header of 2^64 - 1 bytes": safetensors(one(), bytes(8), 2**64 - 1),
        "a header past the end": safetensors(one(), bytes(8), 10**6), "a header of nothing": safetensors(b""),
        "a deep header": safetensors(b'{"a":' + b"[" * 10**6), "a header that is a list": safetensors([1]),
        "a tensor outside the file": safetensors(one(end=10**12, shape=(10**11,)), bytes(8)),
        "a tensor that begins below zero": safetensors(one(start=-8), bytes(8)),
        "a shape whose product wraps": safetensors(one(shape=(2**62 + 1, 4)), bytes(8)),
        "a name of a megabyte": safetensors({"n" * 10**6: one()[WORD]}, bytes(8)),
        "an empty file": b"", "a type that is none": safetensors(one(dtype="PICKLE"), bytes(8)),
        "10^5 tensors of nothing": safetensors(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**5)}),
    }  # fmt: skip
    for what, content in files.items():
        yield Case("weights", f"{what}/config.json", model(content), weights)
    right = safetensors(
        {WORD: {"dtype": "F32", "shape": [300, 16], "data_offsets": [0, 19200]}}, bytes(19200)
    )
    for name, value in {
        "num_hidden_layers": 10**9, "hidden_size": 2**50, "vocab_size": 10**12, "head_dim": -1, "rope_theta": 1e999,
    }.items():  # fmt: skip
        yield Case(
            "weights", f"{name} {value}/config.json", model(right, CONFIG | {name: value}), weights
        )
    places = ["../../etc/passwd", "/etc/passwd", "../x.safetensors", "a/b.safetensors", "", 7, None, "x\0.safetensors",
              "a\nb.safetensors", "..safetensors"]  # fmt: skip
    for i, place in enumerate(places):
        index = json.dumps({"weight_map": {WORD: place}}).encode()
        made = model(index, name="model.safetensors.index.json")
        yield Case("name that leaves", f"index {i}/config.json", made, weights)

    def link(path):
        path.write_text(json.dumps(CONFIG))
        (path.parent / "model.safetensors").symlink_to("/etc/hostname")

    yield Case("link", "weights that are a link/config.json", link, weights)


def store_names() -> Iterator[Case]:
    for i, name in enumerate(
        ["../x", "/etc/x", "a//b", "a/../../x", "a\\b", "", ".", "a\0b", "..", "a/./b"]
    ):
        for act in ("find", "write", "create", "delete"):

            def read(path, name=name, act=act):
                more = (b"x",) if act in ("write", "create") else ()
                return getattr(connect(path), act)(name, *more)

            yield Case("name that leaves", f"{act} {i}", lambda path: path.mkdir(), read)

    def link(path):
        path.mkdir()
        (path / "runs").symlink_to("/tmp")

    yield Case(
        "link", "a store's folder", link, lambda path: connect(path).write("runs/evil", b"x")
    )


# ---- names


NAMES = {
    "a script": "<script>alert(1)</script>", "an image": "<img src=x onerror=alert(1)>", "a closing tag": "</svg></style>b",
    "an attribute": '" onload="alert(1)', "a template": "{{ 7*7 }}{% raw %}", "a link": "[x](javascript:alert(1))",
    "a formula": "=cmd|' /C calc'!A0", "another": "@SUM(1+1)*cmd|' /C calc'!A0", "one more": "+1+cmd|' /C calc'!A0",
    "colors of a terminal": "\x1b[31mred", "a window's title": "\x1b]0;x\x07", "a turn of direction": "a\u202eb",
    "two lines": "a\nb", "a zero byte": "a\0b", "a formula of TeX": "$\\undefined{", "a file of TeX": "\\input{/etc/passwd}",
    "a format": "%s%n{0}", "5,000 letters": "x" * 5000,
}  # fmt: skip


def names() -> Iterator[Case]:
    flops = np.geomspace(1e18, 1e20, 5)
    for what, name in NAMES.items():

        def make(path, name=name):
            rows = [
                {"group": g, "train_flops": f, "value": (2 + i * 0.1) * f ** -(0.05 + 0.01 * i)}
                for i, g in enumerate(("a", name))
                for f in flops
            ]
            pd.DataFrame(rows).to_csv(path, index=False)

        def read(path, name=name):
            """A page and a table are made; nothing of the name must work in either, nor in the terminal."""
            page, laws, said = path.with_suffix(".html"), path.with_name("laws.csv"), io.StringIO()
            given = ["fit", str(path), "--baseline", "a", "--out", str(page), "--laws", str(laws)]
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main(given)
            assert "\x1b" not in said.getvalue(), "the terminal would obey"
            if code:
                raise UserError(said.getvalue().strip())
            text, cells = page.read_text(), laws.read_text()
            assert not any(c in name for c in "<>") or name not in text, "the page would obey"
            assert not any(f"\n{name[0]}" in cells or f",{name[0]}" in cells for _ in "=" if name[0] in "=@+"), "a sheet would obey"  # fmt: skip
            assert name in set(rs.read_table(laws)["group"]), "the name has changed"
            return "made"

        yield Case("name", f"{what}.csv", make, read)


def cases() -> list[Case]:
    """All of them."""
    parts = [
        store_names,
        weight_files,
        plain_tables,
        deep_json,
        inspect_logs,
        workbooks,
        parquets,
        packed_bombs,
        names,
    ]
    return [case for part in parts for case in part()]


# ---- what reading one costs


def peak_mb() -> float:
    """The most memory that this process has had, in megabytes."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def measure(case: Case, folder: Path) -> dict:
    """Make the file and read it in a child: what it said, its memory beyond this process's, its processor seconds."""
    parts = [re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in case.what.split("/")]
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    making = os.fork()  # a bomb is packed in a process of its own, too
    if not making:
        case.make(path)
        os._exit(0)
    assert os.waitpid(making, 0)[1] == 0, case
    size = sum(
        p.stat().st_size
        for p in (path.parent.rglob("*") if path.parent != folder else [path])
        if p.is_file()
    )
    end, begin = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        with os.fdopen(begin, "w") as answer:
            answer.write(json.dumps(_read(case, path)))
        os._exit(0)
    os.close(begin)
    with os.fdopen(end) as answer:
        said = answer.read()
    _, status, _ = os.wait4(child, 0)
    found = json.loads(said) if said else {"ended": f"died ({status})", "said": ""}
    return {"kind": case.kind, "what": case.what, "bytes": size, **found}


def _read(case: Case, path: Path) -> dict:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S + 5))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begun, began = peak_mb(), time.process_time(), time.monotonic()
    try:
        got = case.read(path)
        ended, said = "read", str(got)
    except UserError as error:
        said = str(error)
        ended = "refused" if 0 < len(said) < LONGEST and "\n" not in said else "refused at length"
    except BaseException as error:
        ended, said = f"raised {type(error).__name__}", str(error)
    return {
        "ended": ended, "said": said.replace(str(path.parent), "FOLDER")[:300], "peak_mb": round(peak_mb() - before, 1),
        "cpu_s": round(time.process_time() - begun, 2), "wall_s": round(time.monotonic() - began, 2),
    }  # fmt: skip


def good(row: dict) -> bool:
    """Whether one was met as it should be: read or refused in one line, within memory and time."""
    return (
        row["ended"] in ("read", "refused")
        and row["peak_mb"] < MOST_MB
        and row["cpu_s"] < MOST_CPU_S
    )
