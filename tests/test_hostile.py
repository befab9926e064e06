"""Every hostile plugin of docs/security.md is tried, and ends as the table there says."""

from __future__ import annotations

import importlib
import importlib.util
import json
import marshal
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_steps
import pytest
from hostile_place import STEP, There
from outside_steps import Ridge
from registry_files import describe

from conftest import ROOT
from upright import catalog
from upright.commands import plugins
from upright.errors import IntegrityError, PluginError
from upright.evidence.ledger import read_ledger
from upright.evidence.verify import verify
from upright.stack import Placed
from upright.testing.kit import outcome, subject_of
from upright.testing.toys import SIZES

ROW = re.compile(r"^\| (\d+) \| `([\w-]+)` \|[^|]+\| ([^|]+?) \|[^|]+\|$", re.MULTILINE)
TABLE = [(int(number), name, told) for number, name, told in ROW.findall((ROOT / "docs" / "security.md").read_text())]
CALL = "import socket\ntry:\n    socket.getaddrinfo('example.org', 80)\nexcept OSError: ...\n"
PATCH = "from upright.evidence import verify\nverify.TOLERANCE = 1e9\n"
POINT = "[upright.v1.tune]\n{} = upright_thing:Thing\n"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield There(tmp_path, monkeypatch)
    sys.modules.pop("acme_x", None)
    catalog.installed.cache_clear()


def hangs(there: There) -> str:
    there.monkeypatch.setattr(plugins, "LIMIT", 3)
    entry = there.site("import time\ntime.sleep(100)\n" + STEP)
    assert plugins._problem(entry) == "its import took over 3 s"
    return "exposed by `plugins --check`"


def mutates(there: There) -> str:
    subject = subject_of(hostile_steps.Softens(), there.folder, "train")
    stack = subject.stack(Placed("train", "ridge", "ridge", Ridge(strength=0.1), "beside"))
    error = subject.execute(stack).error
    assert isinstance(error, IntegrityError)
    assert "train: its settings were changed during the run" in str(error)
    folder = (Path(stack.settings.output) / stack.settings.name / "latest").resolve()
    assert json.loads((folder / "status.json").read_text())["exit_code"] == 5
    assert not (folder / "manifest.json").exists()
    return "contained"


def idles(there: There) -> str:
    error = subject_of(hostile_steps.Idle(), there.folder, "tune").main.error
    assert "forgotten.weight" in str(error)
    return "contained"


def drops(there: There) -> str:
    subject = subject_of(hostile_steps.DropsTest(), there.folder, "clean")
    run = subject.execute(subject.stack().only_cleaning()).run
    assert run is not None
    assert (len(run.data["train"]), len(run.data["test"])) == (SIZES["train"] / 2, SIZES["test"])
    told = [line for line in read_ledger(run.folder).to_pylist() if line["split"] == "test"]
    assert {line["action"] for line in told} == {"flag"}
    assert len(told) == SIZES["test"] / 2
    return "contained"


def forges(there: There) -> str:
    run = subject_of(hostile_steps.Forges(), there.folder, "train").main.run
    assert run is not None
    assert any(
        "'test/accuracy' is 0.987, but the predictions say" in problem for problem in verify(run.folder).problems
    )
    return "exposed by verify"


def ships(there: There) -> str:
    run = subject_of(hostile_steps.ShipsGroup(), there.folder, "train").main.run
    assert run is not None
    assert json.loads((run.folder / "model" / "added_notes.json").read_text()) == run.data["train"]["sex"][:]
    assert verify(run.folder).problems == []
    return "not detected"


def changes(there: There) -> str:
    entry = there.site(STEP)
    assert there.environment()[0] == 0
    path = there.folder / "site" / "acme_x" / "__init__.py"
    path.write_text(STEP + "EVIL = True\n")
    code, told = there.environment()
    assert code == 5
    assert f"{entry.dist}: {path} was changed after it was installed" in told
    return "exposed by verify"


def compiles(there: There) -> str:
    """As Python does it: the header of a .pyc names its source's time and size, not its content."""
    entry = there.site(STEP)
    source = there.folder / "site" / "acme_x" / "__init__.py"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    stat = source.stat()
    header = b"".join(int(number).to_bytes(4, "little") for number in (0, stat.st_mtime, stat.st_size))
    code = marshal.dumps(compile(STEP + "EVIL = True\n", str(source), "exec"))
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + header + code)
    assert there.environment()[0] == 0
    catalog.load(entry)
    assert sys.modules["acme_x"].EVIL
    return "not detected"


def waits(there: There) -> str:
    def said(day: str) -> str:
        (there.folder / day).mkdir()
        return outcome(
            "cleaner-deterministic", subject_of(hostile_steps.TimeBomb(), there.folder / day, "clean")
        ).detail

    assert said("today") == "0 decisions, the same twice"
    there.monkeypatch.setattr(time, "time", lambda: hostile_steps.DUE + 1)
    assert "other decisions the second time" in said("then")
    return "not detected"


def squats(there: There) -> str:
    there.wheel("upright-tuna", points="[upright.v1.tune]\ntuna = upright_tuna:Thing\n")
    words = "offers steps to Upright but is not in the index"
    return there.not_installed(PluginError, words, there.wheel(requires="upright-tuna"))


def is_lora(there: There) -> str:
    describe(there.folder / "plugins", there.wheel(points=POINT.format("lora")))
    file = there.folder / "plugins" / "upright-thing.toml"
    file.write_text(file.read_text().replace('tune = ["thing"]', 'tune = ["lora"]'))
    return there.not_installed(PluginError, r"tune\.lora is one of upright-tune already")


def is_another(there: There) -> str:
    describe(there.folder / "plugins", there.wheel())
    there.wheel(files={"upright_thing/more.py": ""})
    return there.not_installed(IntegrityError, "its sha256 is .*, the registry says")


CASES: dict[str, Callable[[There], str]] = {
    "pth-file": lambda at: at.not_installed(
        PluginError, "would run at every start", at.wheel(files={"upright_thing.pth": "import os"})
    ),
    "wrong-hash": is_another,
    "bad-signature": lambda at: at.index("was not signed with the key", changed=True),
    "downgraded-index": lambda at: at.index("is version 1, older than 2", version=1),
    "expired-index": lambda at: at.index("expired on", days=-1),
    "name-squatting": squats,
    "same-step-twice": is_lora,
    "wrong-contract": lambda at: at.not_installed(PluginError, "of contract v2", at.wheel(), contract="v2"),
    "import-crash": lambda at: at.refused("1 / 0\n", "acme-x 1.0 cannot be imported .ZeroDivisionError"),
    "exit-at-import": lambda at: at.refused(
        "import sys\nsys.exit(0)\n", "acme-x 1.0 cannot be imported .SystemExit: 0"
    ),
    "import-hang": hangs,
    "huge-import": lambda at: at.imported("imports-lightly", "import torch\n", "imports torch"),
    "network-at-import": lambda at: at.imported("imports-lightly", CALL, "asks the network for 'example.org'"),
    "monkeypatches-core": lambda at: at.imported("leaves-core-alone", PATCH, "upright.evidence.verify.TOLERANCE"),
    "writes-elsewhere": lambda at: at.wrong("writes-inside", "Spills", "the run wrote /no-such-folder"),
    "lies-per-record": lambda at: at.wrong("per-unit-gradients", "CouplesGradients", "the batch's gradient differs"),
    "lies-determinism": lambda at: at.wrong("cleaner-deterministic", "Dice", "other decisions the second time"),
    "lies-stability": lambda at: at.wrong("cleaner-stability", "Repeats", "units of the cleaned rows differ"),
    "lies-completeness": lambda at: at.wrong("explainer-complete", "Slope", "miss the whole"),
    "lies-trainable-set": idles,
    "moves-frozen-weights": lambda at: at.wrong("trains-what-it-claims", "MovesFrozen", "is frozen and moved"),
    "seeded-noise": lambda at: at.wrong("noise-not-seeded", "PublicNoise", "drew the same noise"),
    "mutates-another-step": mutates,
    "forges-figures": forges,
    "drops-hard-test-rows": drops,
    "exfiltrates-by-added-row": lambda at: at.conform(
        "cleaner-stability", hostile_steps.Smuggles(), "clean", "2 units of the cleaned rows differ"
    ),
    "changed-after-install": changes,
    "group-in-the-export": ships,
    "compiled-file": compiles,
    "time-bomb": waits,
}


@pytest.mark.parametrize(("name", "expected"), [(name, told) for _, name, told in TABLE])
def test_a_hostile_plugin_ends_as_the_table_says(name: str, expected: str, there: There) -> None:
    assert CASES[name](there) == expected


def test_thirty_are_tried_and_what_is_not_detected_is_named() -> None:
    assert [number for number, *_ in TABLE] == list(range(1, 31))
    assert {name for _, name, _ in TABLE} == CASES.keys()
    assert sum(told != "not detected" for *_, told in TABLE) >= 26
