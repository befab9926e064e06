"""What policies and locks are told of the index that was seen last."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from upright import Stack
from upright.errors import ConfigError, IntegrityError, PluginError
from upright.standing import standing
from upright_registry import index as index_module
from upright_registry.index import Index, private_key, signed
from upright_registry.plugin import Plugin
from upright_registry.seen import seen
from upright_registry.trust import copy, key_id, trusted

HASH = "0" * 64


@pytest.fixture
def published(tmp_path: Path, home: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that was fetched once; it lists upright-tune, no more."""
    private, public = keys
    monkeypatch.setenv("UPRIGHT_REGISTRY_KEY", str(public))
    plugin = Plugin.model_validate(
        {"dist": "upright-tune", "summary": "Tuning.", "licence": "Apache-2.0", "maintainers": ["A. Author"],
         "steps": {"tune": ["lora", "novel"]}, "tier": "listed",
         "releases": [{"version": "0.1.0", "sha256": HASH, "contract": "v1"}]}
    )  # fmt: skip
    now = datetime.now(UTC)
    index = Index(version=3, built=now, expires=now + timedelta(days=1), plugins=(plugin,))
    path = tmp_path / "index.json"
    path.write_bytes(signed(index, private_key(private)))
    trusted(str(path))
    return path


def refused(toy: dict[str, Any], folder: Path, rules: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "upright.toml").write_text(f"[policy]\n{rules}\n")
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        Stack.load({**toy, "tune": {"use": "lora"}})
    return caught.value.problems


def test_locks_are_told_version_and_key_and_policies_what_is_known(published: Path) -> None:
    known = seen(["upright-tune", "upright-unknown"])
    assert known == {
        "version": 3,
        "key": key_id(),
        "steps": {"tune.lora": "upright-tune", "tune.novel": "upright-tune"},
        "plugins": {
            "upright-tune": {"tier": "listed", "status": "ok", "maintainers": ["A. Author"], "versions": ["0.1.0"]}
        },
    }
    assert standing(["upright-tune", "upright-unknown"]) == known


def test_the_copy_needs_no_index_any_more_and_a_changed_one_is_noticed(published: Path) -> None:
    published.unlink()
    assert seen([]) is not None
    path = copy(key_id())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"Tuning.", b"Tuned.."))
    with pytest.raises(IntegrityError, match="is not the index that was seen"):
        seen([])


def test_a_name_that_is_not_installed_leads_to_who_offers_it(published: Path, toy: dict[str, Any]) -> None:
    with pytest.raises(
        PluginError, match=r"no step 'novel' is installed; upright-tune offers it: `upright registry in"
    ):
        Stack.load({**toy, "tune": {"use": "novel"}})


def test_without_an_index_nothing_is_told(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen([]) is None
    monkeypatch.setenv("UPRIGHT_REGISTRY_KEY", str(keys[1]))
    assert seen([]) is None


def test_a_policy_asks_for_tier_and_publisher(
    published: Path, toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [problem] = refused(toy, tmp_path, 'minimum_tier = "tested"', monkeypatch)
    assert problem.startswith("upright.toml:2  policy.minimum_tier: tune.lora of upright-tune")
    assert "is listed, and tested is asked for" in problem
    [problem] = refused(toy, tmp_path, 'publishers = ["B. Other"]', monkeypatch)
    assert "kept by A. Author, not by B. Other" in problem
    (tmp_path / "upright.toml").write_text('[policy]\npublishers = ["A. Author"]\nminimum_tier = "listed"\n')
    assert len(Stack.load({**toy, "tune": {"use": "lora"}}).policies) == 1


def test_an_expired_index_vouches_for_nobody(
    published: Path, toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    monkeypatch.setattr("upright_registry.trust.now", lambda: later)
    assert index_module.now() < later
    [problem] = refused(toy, tmp_path, 'minimum_tier = "listed"', monkeypatch)
    assert "expired on" in problem


def test_what_a_lock_says_of_the_index(published: Path, toy: dict[str, Any]) -> None:
    run = Stack.load({**toy, "tune": {"use": "lora"}}).run()
    assert json.loads((run.folder / "lock.json").read_text())["index"] == {"version": 3, "key": key_id()}
