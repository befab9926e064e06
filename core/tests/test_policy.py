"""What a house allows: each rule refuses with its line, before any code of the step is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from upright import Stack, catalog
from upright.catalog import Entry
from upright.errors import ConfigError, PluginError


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UPRIGHT_POLICY", raising=False)
    return tmp_path


def refused(toy: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Stack.load(toy).require()
    return caught.value.problems


def test_a_stack_that_keeps_every_rule_loads_and_says_which_policy_held(toy: dict[str, Any], house: Path) -> None:
    (house / "upright.toml").write_text('[policy]\nallow = ["upright-*"]\nlocal_steps = false\nrequired = ["lora"]\n')
    stack = Stack.load({**toy, "tune": {"use": "lora"}})
    stack.require()
    assert [policy.source for policy in stack.policies] == ["upright.toml"]


def test_a_distribution_that_is_not_allowed_is_named_with_the_rules_line(toy: dict[str, Any], house: Path) -> None:
    (house / "upright.toml").write_text('[policy]\n\nallow = ["hospital-*", "Other"]\n')
    [problem] = refused({**toy, "tune": {"use": "lora"}})
    assert problem.startswith("upright.toml:3  policy.allow: tune.lora of upright-tune")
    assert "hospital-*, Other" in problem


def test_a_step_that_is_refused_is_not_imported(toy: dict[str, Any], house: Path) -> None:
    (house / "upright.toml").write_text('[policy]\nallow = ["nobody"]\nlocal_steps = false\n')
    (house / "steps.py").write_text("raise SystemExit('was run')\n")
    for name in [name for name in sys.modules if name.startswith("upright_tune")]:
        del sys.modules[name]
    toy["train"] = {**toy["train"], "steps": [{"use": "./steps.py:Mine"}]}
    problems = refused({**toy, "tune": {"use": "vera"}})
    assert [problem.split(":")[1].split(" ")[0] for problem in problems] == ["2", "3"]
    assert "upright_tune.vera" not in sys.modules


def test_what_every_stack_must_have_is_missed(toy: dict[str, Any], house: Path) -> None:
    (house / "upright.toml").write_text('[policy]\nrequired = [\n  "pii",\n  "dp-sgd",\n]\n')
    problems = refused({**toy, "tune": {"use": "lora"}})
    assert [problem.split("  ")[0] for problem in problems] == ["upright.toml:2"] * 2
    assert "no step 'pii'" in problems[0]
    assert "no step 'dp-sgd'" in problems[1]


def test_the_nearest_file_and_the_named_one_both_hold(
    toy: dict[str, Any], house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house / "upright.toml").write_text('[policy]\nrequired = ["lora"]\n')
    (house / "central.toml").write_text('[policy]\nrequired = ["pii"]\n')
    monkeypatch.setenv("UPRIGHT_POLICY", str(house / "central.toml"))
    [problem] = refused({**toy, "tune": {"use": "lora"}})
    assert problem.startswith("central.toml:2  policy.required")
    (house / "below").mkdir()
    monkeypatch.chdir(house / "below")
    assert any("upright.toml:2" in problem for problem in refused({**toy, "tune": {"use": "vera"}}))


def test_a_named_file_that_is_not_there_allows_nothing(
    toy: dict[str, Any], house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPRIGHT_POLICY", str(house / "gone.toml"))
    assert "so nothing is allowed" in refused(toy)[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[policy\n", "upright.toml:1  is no TOML"),
        ("[policy]\nallow = 3\n", "upright.toml:2  policy.allow: "),
        ("[policy]\n\nmaximum = 3\n", "upright.toml:3  policy.maximum: there is no such rule"),
        ("[policy]\nminimum_tier = 'best'\n", "upright.toml:2  policy.minimum_tier: "),
        ("[rules]\n", "upright.toml:1  rules: there is no such rule"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(toy: dict[str, Any], house: Path, text: str, told: str) -> None:
    (house / "upright.toml").write_text(text)
    assert refused(toy)[0].startswith(told)


def test_a_tier_needs_an_index_that_was_seen(toy: dict[str, Any], house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (house / "upright.toml").write_text('[policy]\nminimum_tier = "tested"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(house))
    assert "no index was seen" in refused({**toy, "tune": {"use": "lora"}})[0]


def test_two_tellers_of_an_index_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from upright.standing import standing

    both = tuple(Entry(catalog.INDEX, name, f"dist-{name}", "1.0", "json:loads") for name in ("a", "b"))
    monkeypatch.setattr(catalog, "installed", lambda: both)
    with pytest.raises(PluginError, match=r"dist-a 1\.0 and dist-b 1\.0 both tell"):
        standing([])
