"""Write data/{train,dev,test}.jsonl: speeches of tinyshakespeare, in the text's order: 80 % train, 10 % dev, 10 % test.

python prepare.py            # reads $UPRIGHT_DATA/tinyshakespeare, default ../../../shared/data
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = Path(os.environ.get("UPRIGHT_DATA") or HERE / "../../../shared/data") / "tinyshakespeare" / "corpus.txt"
LINES = 8
"""Lines of a passage: about 150 tokens of the 512-word vocabulary."""


def main() -> int:
    if not SOURCE.is_file():
        print(f"{SOURCE} is not there; set UPRIGHT_DATA to the folder that holds tinyshakespeare", file=sys.stderr)
        return 2
    lines = [line for line in SOURCE.read_text(encoding="utf-8").splitlines() if line.strip()]
    passages = ["\n".join(lines[start : start + LINES]) for start in range(0, len(lines), LINES)]
    first, second = len(passages) * 8 // 10, len(passages) * 9 // 10
    parts = {"train": passages[:first], "dev": passages[first:second], "test": passages[second:]}
    (HERE / "data").mkdir(exist_ok=True)
    for split, texts in parts.items():
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (HERE / "data" / f"{split}.jsonl").write_text(content, encoding="utf-8")
    print(f"wrote {HERE.name}/data/train.jsonl, dev.jsonl and test.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
