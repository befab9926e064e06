"""A search tries settings on validation alone, keeps every trial, and runs the best once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from conftest import toy_rows, write_rows
from upright import Stack
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_tune.interrupts import noticed
from upright_tune.parallel_coordinates import section
from upright_tune.search import search
from upright_tune.search_space import Parameter, holds
from upright_tune.trials import Trial, best, read

RATE = {"low": 1e-3, "high": 1.0, "log": True}
RANK = {"low": 2, "high": 6, "step": 2}


@pytest.fixture
def stack(toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes stack.yaml with a search of three trials; keywords replace sections, ``search`` adds to its settings."""
    monkeypatch.chdir(tmp_path)

    def write(**sections: Any) -> Path:
        found = {
            "use": "optuna",
            "trials": 3,
            "parameters": {"train.learning_rate": RATE, "tune.rank": RANK},
            **sections.pop("search", {}),
        }
        whole = {**toy, "search": found, **sections}
        path = tmp_path / "stack.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}, sort_keys=False))
        return path

    return write


def latest(tmp_path: Path) -> Path:
    return (tmp_path / "runs" / "toy" / "latest").resolve()


def refused(*arguments: str) -> str:
    """The sentence with which a search is refused as configuration."""
    with pytest.raises(ConfigError) as told:
        search([*arguments])
    return str(told.value)


def test_the_command_searches_runs_the_best_and_verifies(
    stack: Callable[..., Path], tmp_path: Path, upright: Callable[..., Any]
) -> None:
    stack(explain={"use": "integrated-gradients", "samples": 2})
    done = upright("search", "stack.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["trial 0", "trial 1", "trial 2", "best"]
    told = json.loads(done.stdout)
    run = latest(tmp_path)
    assert Path(told["run"]).name == run.name
    trials = read(run / "steps" / "optuna" / "trials.jsonl")
    assert len(trials) == len(told["trials"]) == 3
    chosen = best(trials)
    assert chosen is not None
    assert chosen.value == max(trial.value or 0 for trial in trials)
    resolved = yaml.safe_load((run / "stack.resolved.yaml").read_text())
    assert resolved["tune"][0]["rank"] == chosen.parameters["tune.rank"]
    assert resolved["train"]["learning_rate"] == chosen.parameters["train.learning_rate"]
    assert "steps/optuna/trials.jsonl" in json.loads((run / "manifest.json").read_text())["files"]
    figures = json.loads((run / "metrics.json").read_text())
    assert "test/accuracy" in figures
    # The same settings give the same model: what the trial promised is what the run reaches.
    assert figures["validation/accuracy"]["value"] == chosen.value
    assert figures["run/search/optuna/best_value"] == {"value": chosen.value, "from": "ledger"}
    page = (run / "report.html").read_text()
    assert "Search of settings" in page
    assert f"the best is trial {chosen.number}" in page
    assert "was refused" not in page
    assert upright("verify", run).returncode == 0

    # Nothing but the list of trials is left of them, and a search without its section is refused, never ignored.
    (searched,) = (tmp_path / "runs" / "toy").glob("search-*")
    assert [path.name for path in searched.iterdir()] == ["trials.jsonl"]
    with pytest.raises(
        ConfigError, match=r"search\.optuna: the settings have not been searched yet; use `upright search "
    ):
        Stack.load("stack.yaml").run()
    assert Stack.load(run / "stack.resolved.yaml").run().exit_code == 0


def test_a_doctored_trial_is_found_by_verify(stack: Callable[..., Path], tmp_path: Path) -> None:
    stack(search={"trials": 1})
    assert search(["stack.yaml"]) == 0
    run = latest(tmp_path)
    file = run / "steps" / "optuna" / "trials.jsonl"
    line = json.loads(file.read_text())
    file.write_text(json.dumps({**line, "value": 0.99}) + "\n")
    problems = verify(run).problems
    assert any("trials.jsonl: is not what the run wrote" in problem for problem in problems)
    assert any("run/search/optuna/best_value" in problem and "0.99" in problem for problem in problems)


def test_trials_never_read_the_test_data(stack: Callable[..., Path], tmp_path: Path) -> None:
    """The test file does not exist: every trial goes well, and the one run that may read it fails."""
    path = stack(search={"trials": 2})
    whole = yaml.safe_load(path.read_text())
    whole["data"]["test"] = {"late": str(tmp_path / "late.jsonl")}
    path.write_text(yaml.safe_dump(whole))
    with pytest.raises(ConfigError, match=r"late\.jsonl"):
        search(["stack.yaml"])
    (kept,) = (tmp_path / "runs" / "toy").glob("search-*/trials.jsonl")
    assert [trial.state for trial in read(kept)] == ["complete", "complete"]
    write_rows(tmp_path / "late.jsonl", toy_rows(12, 5))
    assert search(["stack.yaml"]) == 0
    assert "late/accuracy" in json.loads((latest(tmp_path) / "metrics.json").read_text())


def test_equal_seeds_try_the_same(stack: Callable[..., Path], tmp_path: Path) -> None:
    stack(search={"trials": 2, "n_startup_trials": 1})
    for seed in (1, 1, 2):
        assert search(["stack.yaml", "--set", f"seed={seed}"]) == 0
    found = [
        [(t.parameters, t.value, t.curve, t.state) for t in read(path)]
        for path in sorted((tmp_path / "runs" / "toy").glob("search-*/trials.jsonl"))
    ]
    assert found[0] == found[1] != found[2]


@pytest.fixture
def lines(stack: Callable[..., Path], tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """The same for text generation, whose figure, a perplexity, tells any two trials apart."""

    def write(**found: Any) -> Path:
        rows = [{"text": row["text"]} for row in toy_rows(40, 1)]
        return stack(
            data={"train": write_rows(tmp_path / "lines.jsonl", rows)},
            model={"base": str(tiny_llama), "task": "text-generation"},
            train={"max_steps": 8, "batch_size": 8, "eval_strategy": "steps", "eval_steps": 2},
            search=found,
        )

    return write


def test_poor_trials_are_pruned(lines: Callable[..., Path], tmp_path: Path) -> None:
    """Oracle: the median rule itself (Golovin et al., 2017), over the figures of the complete trials before."""
    lines(
        parameters={"train.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}},
        sampler="random",
        trials=5,
        n_startup_trials=1,
    )
    assert search(["stack.yaml"]) == 0
    trials = read(latest(tmp_path) / "steps" / "optuna" / "trials.jsonl")
    assert "pruned" in [trial.state for trial in trials]
    for trial in trials[1:]:
        before = [one for one in trials[: trial.number] if one.state == "complete"]
        poor = [
            min(value for _, value in trial.curve[: place + 1]) > median(one.curve[place][1] for one in before)
            for place in range(len(trial.curve))
        ]
        if trial.state == "pruned":
            assert poor == [False] * (len(poor) - 1) + [True]
            assert trial.reason == f"at update {2 * len(trial.curve)} of 8, by median"
            assert trial.value == trial.curve[-1][1]
        else:
            assert not any(poor[:-1])  # at the last evaluation there is nothing left to save


def test_less_perplexity_is_better(lines: Callable[..., Path], tmp_path: Path) -> None:
    lines(parameters={"train.learning_rate": {"choices": [1e-9, 0.03]}}, sampler="grid", pruner="none")
    assert search(["stack.yaml"]) == 0
    trials = read(latest(tmp_path) / "steps" / "optuna" / "trials.jsonl")
    assert {(trial.metric, trial.direction) for trial in trials} == {("perplexity", "minimize")}
    assert best(trials).parameters == {"train.learning_rate": 0.03}  # type: ignore[union-attr]


def test_failed_trials_are_recorded_and_the_search_goes_on(
    stack: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that do not check, a loss that is not finite, and an error that nobody foresaw."""
    parameters = {"tune.rank": {"choices": [0, 2]}, "train.learning_rate": {"choices": [1e-2, 1e30, 1e38]}}
    stack(search={"parameters": parameters, "sampler": "grid", "trials": 6})
    assert search(["stack.yaml"]) == 0
    trials = read(latest(tmp_path) / "steps" / "optuna" / "trials.jsonl")
    reasons = {tuple(trial.parameters.values()): str(trial.reason) for trial in trials}
    assert len(trials) == len(reasons) == 6
    assert "greater than or equal to 1, not 0" in reasons[0, 1e-2]
    assert "the loss or its gradient is not finite" in reasons[2, 1e30]
    trace = Path(reasons[2, 1e38].rpartition("where it happened is in ")[2])
    assert "RuntimeError" in trace.read_text()
    assert [path.name for path in trace.parent.iterdir()] == ["error.txt"]
    assert reasons[2, 1e-2] == "None"
    assert sum(trial.state == "failed" for trial in trials) == 5
    assert "5 failed" in (latest(tmp_path) / "report.html").read_text()
    assert "failed (" in capsys.readouterr().err


def test_if_all_fail_so_does_the_command(stack: Callable[..., Path], upright: Callable[..., Any]) -> None:
    stack(search={"parameters": {"train.learning_rate": {"choices": [1e30]}}, "trials": 1})
    done = upright("search")
    assert done.returncode == 1
    assert "none of 1 trials went well (update 2: the loss or its gradient is not finite" in done.stderr


def test_equal_settings_are_run_once(stack: Callable[..., Path], tmp_path: Path) -> None:
    stack(search={"parameters": {"tune.rank": {"choices": [2]}}, "trials": 2})
    assert search(["stack.yaml"]) == 0
    first, second = read(latest(tmp_path) / "steps" / "optuna" / "trials.jsonl")
    assert second.value == first.value
    assert second.reason == "the settings of trial 0, not run again"


def test_a_choice_may_be_a_whole_section_and_a_tenth_is_set_aside(stack: Callable[..., Path], tmp_path: Path) -> None:
    path = stack(search={"parameters": {"tune": {"choices": [{"use": "lora", "rank": 3}, "head"]}}, "sampler": "grid"})
    whole = yaml.safe_load(path.read_text())
    del whole["data"]["validation"]
    path.write_text(yaml.safe_dump(whole))
    assert search(["stack.yaml"]) == 0
    run = latest(tmp_path)
    tried = [trial.parameters["tune"] for trial in read(run / "steps" / "optuna" / "trials.jsonl")]
    assert sorted(tried, key=str) == ["head", {"use": "lora", "rank": 3}]
    assert verify(run).exit_code == 0
    assert Stack.load(run / "stack.resolved.yaml").run().exit_code == 0


def test_ctrl_c_keeps_what_has_been_tried(stack: Callable[..., Path], tmp_path: Path) -> None:
    stack(search={"trials": 50, "sampler": "random"})
    process = subprocess.Popen(
        [sys.executable, "-m", "upright", "search"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("trial 0: train.learning_rate=")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert "interrupted after" in told
    assert "the best so far is trial" in told
    (kept,) = (tmp_path / "runs" / "toy").glob("search-*")
    assert [path.name for path in kept.iterdir()] == ["trials.jsonl"]
    assert read(kept / "trials.jsonl")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_raised_again() -> None:
    class Thing:
        """Something with a weak reference."""

    def interrupt(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with noticed() as interrupted:
        thing = Thing()
        watched = weakref.ref(thing, interrupt)
        del thing  # the interrupt comes inside the callback, and Python drops it
        assert watched() is None
        with pytest.raises(KeyboardInterrupt):
            interrupted()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"parameters": {}}, "search.optuna.parameters: is empty; name a setting to search"),
        ({"parameters": {"tune.rank": {"low": 8, "high": 8}}}, "low (8) must be below high (8)"),
        ({"parameters": {"tune.rank": {"low": 8}}}, "needs `low` and `high`, or `choices`"),
        ({"parameters": {"tune.rank": {"choices": []}}}, "choices is empty; list at least one value"),
        ({"parameters": {"tune.rank": {"choices": [2], "low": 1}}}, "choices stand alone; remove low"),
        ({"parameters": {"tune.dropout": {"low": 0, "high": 1, "log": True}}}, "log needs a low above 0, not 0"),
        ({"parameters": {"tune.dropout": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}}, "log and step exclude"),
        ({"parameters": {"tune.rank": {"lwo": 1, "high": 2}}}, "lwo: unknown setting (did you mean 'low'?)"),
        ({"parameters": {"tune.rnak": RANK}}, "  tune.lora.rnak: unknown setting (did you mean 'rank'?)"),
        ({"parameters": {"tuen.rank": RANK}}, "  tuen: unknown section (did you mean 'tune'?)"),
        ({"parameters": {"train.learnig_rate": RATE}}, "(did you mean 'learning_rate'?)"),
        ({"parameters": {"data.test": {"choices": ["a", "b"]}}}, "data.test cannot be searched: it is the same for"),
        ({"parameters": {"tune.rank.x": RANK}}, "tune.rank.x: 'rank' holds a value, not settings"),
        (
            {"parameters": {"tune.dropout": {"low": 0.0, "high": 0.5}}, "sampler": "grid"},
            "a grid over tune.dropout has no",
        ),
        ({"metric": "cost"}, "whether more or less of 'cost' is better is not known; add `direction:`"),
        ({"metric": "cost", "direction": "minimize"}, "validation has no figure 'cost' (there are accuracy, "),
        ({"pruner": "mdian"}, "search.optuna.pruner: input should be 'median', 'successive-halving'"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_cannot_be_searched_is_told_with_its_place(
    stack: Callable[..., Path], found: dict[str, Any], told: str
) -> None:
    path = stack(search=found)
    sentence = refused("stack.yaml")
    assert told in sentence
    place = int(sentence.split(":")[1])
    assert place >= 1 + path.read_text().splitlines().index("search:")
    assert "\n" not in sentence


def test_stacks_that_cannot_be_searched_are_refused(stack: Callable[..., Path], toy: dict[str, Any]) -> None:
    path = stack(tune=None, train=None)
    assert "search.optuna acts during training, but no step trains" in refused("stack.yaml")
    stack(privacy={"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3})
    assert "every trial would spend privacy budget of privacy.dp-sgd" in refused("stack.yaml")
    whole = {**toy, "output": "runs"}
    path.write_text(json.dumps(whole))
    assert refused("stack.yaml") == "stack.yaml: there is no `search:` section: add one, or use `upright run`"
    assert "there is no such file" in refused("nowhere.yaml")


def test_a_run_with_other_settings_than_the_best_trials_is_refused(stack: Callable[..., Path], tmp_path: Path) -> None:
    stack(search={"trials": 1})
    assert search(["stack.yaml"]) == 0
    resolved = latest(tmp_path) / "stack.resolved.yaml"
    with pytest.raises(ConfigError, match=r"search\.optuna: tune\.rank is not \d, which the best trial \(0\) had"):
        Stack.load(resolved, ["tune.lora.rank=7"]).run()
    with pytest.raises(ConfigError, match="cannot be read"):
        Stack.load(resolved, ["search.optuna.results=nowhere.jsonl"]).run()


def test_without_optuna_one_sentence_says_what_to_install(
    stack: Callable[..., Path], tmp_path: Path, upright: Callable[..., Any]
) -> None:
    stack()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "optuna.py").write_text("raise ModuleNotFoundError(\"No module named 'optuna'\")\n")
    done = upright("search", "stack.yaml", env={"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 3
    assert done.stderr.strip().endswith("search: optuna is not installed; pip install 'upright-tune[search]'")
    assert upright("check", "stack.yaml", env={"PYTHONPATH": str(tmp_path / "site")}).returncode == 0


def test_help_is_complete(upright: Callable[..., Any]) -> None:
    done = upright("search", "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("stack", "--set", "--json", "parameters:", "130 interrupted", "Ctrl-C"))
    assert upright("search", "--sett", "a=b").returncode == 2


def test_settings_are_found_in_a_stack_and_in_its_resolved_form() -> None:
    resolved = {"tune": [{"use": "lora", "name": "lora", "rank": 8, "alpha": 16.0}], "train": {"learning_rate": 1e-3}}
    for settings in (resolved, {**resolved, "tune": {"use": "lora", "rank": 8, "alpha": 16}}):
        assert holds(settings, "tune.rank", 8)
        assert not holds(settings, "tune.rank", 4)
        assert holds(settings, "train.learning_rate", 0.001)
        assert holds(settings, "tune", {"use": "lora", "alpha": 16})
        assert holds(settings, "tune", "lora")
        assert not holds(settings, "tune", "head")
        assert not holds(settings, "tune.rnak", 8)
    assert holds(resolved, "tune.lora.rank", 8)
    assert holds(resolved, "tune.0.rank", 8)


def test_the_picture_holds_every_trial_and_no_more_than_a_picture() -> None:
    from upright.report.pictures import checked

    space = {
        "a.<b>": Parameter(low=1, high=4),
        "c": Parameter(low=1e-5, high=1e-2, log=True),
        "d": Parameter(choices=["x & y", {"use": "lora"}, True, None]),
    }
    trials = [
        Trial(0, {"a.<b>": 1, "c": 1e-5, "d": "x & y"}, "loss", "minimize", 2.0),
        Trial(1, {"a.<b>": 4, "c": 1e-2, "d": {"use": "lora"}}, "loss", "minimize", 1.0),
        Trial(2, {"a.<b>": 2, "c": 1e-3, "d": None}, "loss", "minimize", 3.0, state="pruned"),
        Trial(3, {"a.<b>": 2, "c": 1e-3, "d": True}, "loss", "minimize", state="failed", reason="why"),
    ]
    found = section(space, trials)
    picture = found.blocks[1].svg  # type: ignore[union-attr]
    assert checked(picture) is not None
    lines = picture.split("<polyline")[1:]
    assert len(lines) == 4
    assert sum('stroke-width="3.5"' in line for line in lines) == 1
    assert lines[-1].split('points="')[1].split('"')[0].split()[-1].endswith(",48.0")  # the best ends at the top
    assert "trial 1: 1" in picture
    only = section(space, [trials[3]])  # nothing to draw, and nothing divides by zero
    assert len(only.blocks) == 2


def test_values_are_drawn_from_their_range() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        rank = Parameter(low=4, high=32, step=4).suggest(trial, "rank")
        assert type(rank) is int
        assert rank % 4 == 0
        rate = Parameter(low=1e-5, high=1e-2, log=True).suggest(trial, "rate")
        assert 1e-5 <= rate <= 1e-2
        assert Parameter(choices=[True, {"use": "x"}, None]).suggest(trial, "c") in (True, {"use": "x"}, None)
    assert Parameter(low=0.1, high=0.5, step=0.1).grid() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert Parameter(low=1, high=3).grid() == [1, 2, 3]
    assert Parameter(low=1.0, high=3).grid() is None


def test_a_blocking_gate_rules_a_trial_out(
    stack: Callable[..., Path], tmp_path: Path, upright: Callable[..., Any]
) -> None:
    info = tmp_path / "site" / "acme_gate-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-gate\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[upright.v1.fairness]\nnever = acme_gate:Never\n")
    (tmp_path / "site" / "acme_gate.py").write_text(
        "from upright import Step, Verdict, hook\n"
        "class Never(Step):\n"
        "    @hook\n"
        "    def judge(self, metrics):\n"
        "        return Verdict('never', 'violated', 'nothing is good enough', 'block')\n"
    )
    stack(fairness="never", search={"trials": 1})
    done = upright("search", env={"PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 1
    assert "none of 1 trials went well (a gate is violated: nothing is good enough)" in done.stderr
