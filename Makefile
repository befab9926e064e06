# Each target makes .venv and installs everything when that is missing, then runs one plain command.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
QUICKSTART := examples/quickstart
UNCONSTRAINED := --set name=quickstart-unconstrained --set 'about.compare_with=[]' \
	--set 'fairness={use: group-audit, groups: [sex], positive: urgent}'

export HF_HUB_DISABLE_TELEMETRY = 1
# with it each of the tests' many processes compiles every module anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all coverage docs lint format bench bench-methods bench-dp bench-pii bench-clean bench-cleaners bench-cleaning bench-prompts bench-encrypt bench-fairness bench-labels bench-audit bench-explain bench-sanity bench-responsible matrix matrix-dp pairs results results-methods results-prompts results-fairness results-explain clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): requirements.txt constraints.txt core/pyproject.toml $(wildcard plugins/*/pyproject.toml) registry/pyproject.toml $(QUICKSTART)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)  ## clean, tune, audit, explain and train privately on made-up clinic notes; prints where the report is
	$(BIN)/python -m upright_quickstart.generate $(QUICKSTART)/data
	$(BIN)/upright run $(QUICKSTART) $(UNCONSTRAINED)
	$(BIN)/upright run $(QUICKSTART)
	$(BIN)/upright verify runs/quickstart/latest
	@$(BIN)/upright report runs/quickstart/latest

test: $(READY)  ## the fast tests, one process per core
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal --hypothesis-profile repeatable \
		-m "not slow and not gpu"

test-all: $(READY)  ## every test that this machine can run
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal

coverage: $(READY)  ## branch coverage of core by the fast tests; under 90 % fails
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal --hypothesis-profile repeatable \
		-m "not slow and not gpu" --cov --cov-fail-under=90

docs: $(READY)  ## the reference of hooks, from hooks.py
	$(BIN)/python docs/write_hooks.py

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core/upright

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the loop beside a hand-written one and transformers.Trainer; and the budgets of the command line
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/loop.py
	$(BIN)/python tests/benchmarks/budgets.py

bench-methods: $(READY)  ## each tuning method of our own beside the plainest PyTorch for it; minutes to an hour
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/methods.py

bench-dp: $(READY)  ## a private update beside the same one without privacy, opacus's hooks and ghost clipping too
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/private.py

bench-pii: $(READY)  ## personal data beside Presidio: recall, precision, speed; names by a model trained here; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/pii.py

bench-clean: $(READY)  ## near-dup beside datasketch and rensa: pairs found, CPU time, growth to a million rows; minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/near_dup.py

bench-cleaners: $(READY)  ## rows a second of the row-local text cleaners; the leaked rows of ChnSentiCorp; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/cleaners.py

bench-cleaning: $(READY)  ## memory from 10,000 to a million rows, and the ledger's part of cleaning's time
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/cleaning.py

bench-prompts: $(READY)  ## scoring labels with a shared prefix beside the naive loop
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/label_scores.py

bench-encrypt: $(READY)  ## sealing and opening a file beside copying it and beside AES-256-GCM alone
	$(BIN)/python tests/benchmarks/encrypt.py

bench-fairness: $(READY)  ## a bootstrap of group metrics beside fairlearn's MetricFrame; updates under a constraint beside plain LoRA's
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/fairness.py

bench-labels: $(READY)  ## planted label errors beside cleanlab's default, and what the parity gate says of both; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/labels.py

bench-audit: $(READY)  ## does the audit notice a broken mechanism and spare an honest one; 80 tiny runs, minutes
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/audit.py

bench-explain: $(READY)  ## integrated gradients beside their floor and captum on a padded batch; minutes
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/explain.py

bench-sanity: $(READY)  ## do explainers depend on the model, and do the tokens that they name matter; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/sanity.py

bench-responsible: $(READY)  ## a whole responsible run beside the bare training, CPU time by stage; needs UPRIGHT_DATA; half an hour
	HF_HUB_OFFLINE=1 $(BIN)/python -W ignore tests/benchmarks/responsible.py

matrix: $(READY)  ## every tuning method on every architecture and task; writes docs/methods.md
	HF_HUB_OFFLINE=1 $(BIN)/python tests/matrix.py --write

matrix-dp: $(READY)  ## per-unit gradients of every tuning method, opacus's beside ours; writes docs/per-unit-gradients.md
	HF_HUB_OFFLINE=1 $(BIN)/python tests/matrix_dp.py --write

pairs: $(READY)  ## every two steps, every three of tune, fairness and privacy: run or refused; writes docs/compatibility.md
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/pairs.py --write

results: $(READY)  ## the real runs of docs/results.md; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/real_runs.py

results-methods: $(READY)  ## six tuning methods on two real tasks; needs UPRIGHT_DATA; hours
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/real_methods.py

results-prompts: $(READY)  ## what a very small language model can do untrained; needs UPRIGHT_DATA and UPRIGHT_MODELS
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/few_shot.py

results-fairness: $(READY)  ## each fairness step and fairlearn's on three real tasks, five seeds; needs UPRIGHT_DATA; an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/fair_runs.py

results-explain: $(READY)  ## each explainer against human rationales of hatexplain; needs UPRIGHT_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/benchmarks/plausibility.py

clean:  ## remove what the other targets made
	rm -rf .venv runs $(QUICKSTART)/data
