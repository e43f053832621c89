"""Score speeches on SmolLM2-135M, one after the other, round the countries; what is killed resumes at the window it was in.

python data/smollm2/make.py SPEECHES WORK 1    # one speech of each country, those whose names hash smallest
"""

import csv
import math
import resource
import sys
import time
from pathlib import Path

import relscale as rs

TABLE = Path(__file__).parent / "speeches.csv"
COLUMNS = ("group", "document", "bits", "num_bytes", "num_tokens", "process_s", "peak_mib")


def main(speeches: Path, work: Path, most: int) -> None:
    found = {}
    if TABLE.exists():
        with open(TABLE, newline="") as file:
            found = {(row["group"], row["document"]): row for row in csv.DictReader(file)}
    groups = rs.eval.groups.load_groups(speeches, max_documents=most)
    todo = [(g, own[k]) for k in range(most) for g, own in groups.items() if k < len(own)]
    todo = [(group, document) for group, document in todo if (group, document.name) not in found]
    opened = rs.open_model("smollm2-135m") if todo else None
    for number, (group, document) in enumerate(todo, 1):
        began = time.process_time()
        scored = rs.eval.groups.score_groups(
            opened, {group: [document]}, results=work / "windows.jsonl", progress=True
        )
        row = scored.rows.iloc[0]
        found[group, document.name] = {
            "group": group, "document": document.name, "bits": row["nats"] / math.log(2),
            "num_bytes": row["num_bytes"], "num_tokens": row["num_tokens"],
            "process_s": round(time.process_time() - began, 1),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }  # fmt: skip
        with open(TABLE, "w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(found[key] for key in sorted(found))
        print(f"{number} of {len(todo)}: {group} {document.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
