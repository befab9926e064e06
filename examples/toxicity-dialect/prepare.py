"""Write data/{train,dev,test}.jsonl: tweets as `toxic` (hate or offensive) or `neither`, with their dialect.

python prepare.py            # reads $UPRIGHT_DATA/davidson_dialect, default ../../../shared/data
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = Path(os.environ.get("UPRIGHT_DATA") or HERE / "../../../shared/data") / "davidson_dialect"


def main() -> int:
    if not SOURCE.is_dir():
        print(f"{SOURCE} is not there; set UPRIGHT_DATA to the folder that holds davidson_dialect", file=sys.stderr)
        return 2
    (HERE / "data").mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        rows = [json.loads(line) for line in (SOURCE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        with (HERE / "data" / f"{split}.jsonl").open("w", encoding="utf-8") as out:
            for row in rows:
                label = "neither" if row["label"] == "neither" else "toxic"
                kept = {"text": row["text"], "label": label, "dialect": row["dialect"]}
                out.write(json.dumps(kept, ensure_ascii=False) + "\n")
    print(f"wrote {HERE.name}/data/train.jsonl, dev.jsonl and test.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
