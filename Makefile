# The paper's four stages, a target each. EXP picks the folder under experiments/ (demo needs no download), ARGS adds settings:
#   make grpo EXP=gsm8k ARGS="grpo.steps=50 loss.preset=dapo"
EXP  ?= demo
NAME ?= reflection
SEEDS ?= 0 1 2
ARGS ?=
REWARD ?= accuracy
MODEL  ?= HuggingFaceTB/SmolLM2-135M-Instruct
DEVICE ?= cpu
PYTHON ?= python3
VENV ?= .venv
RUN  := $(VENV)/bin/python -m grpo
CONFIGS := experiments/$(EXP)
.DEFAULT_GOAL := help
ifeq ($(wildcard $(CONFIGS)/),)
$(error EXP=$(EXP): there is no folder $(CONFIGS); there are $(patsubst experiments/%/base.yaml,%,$(wildcard experiments/*/base.yaml)))
endif

PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

$(VENV)/.ready: setup.py constraints.txt
	@echo "Making $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Adding the test packages to $(VENV)"
	$(PIP) -e ".[gguf,dev]"
	@touch $@

$(VENV)/.ready-figures: $(VENV)/.ready
	@echo "Adding matplotlib to $(VENV), for figures"
	$(PIP) -e ".[figures]"
	@touch $@

setup: $(VENV)/.ready ## make .venv with the pinned packages

demo: $(VENV)/.ready ## the four stages on the embedded problems, then the table and the report
	@$(RUN) demo $(ARGS)
	@$(VENV)/bin/python -m experiments.expected check runs/demo/3-grpo

ablate: $(VENV)/.ready-figures ## arms x seeds, paired, with a figure: make ablate NAME=reflection SEEDS="0 1 2"
	$(VENV)/bin/python -m experiments.ablate $(NAME) $(ARGS) --seeds $(SEEDS)

paper: ## the rows of the paper's table on the embedded problems: make paper SEEDS="0 1 2 3 4"
	@$(MAKE) --no-print-directory ablate NAME=paper

minimal: $(VENV)/.ready ## the whole algorithm on one page, on the embedded model (a minute)
	@$(VENV)/bin/python -m experiments.expected minimal $(ARGS)

base: $(VENV)/.ready ## stage 1: evaluate the base model as it is
	$(RUN) base --config $(CONFIGS)/base.yaml $(ARGS)

sft: $(VENV)/.ready ## stage 2: SFT on worked solutions (LoRA: ARGS="model.lora.rank=16")
	$(RUN) sft --config $(CONFIGS)/sft.yaml $(ARGS)

grpo: $(VENV)/.ready ## stage 3: GRPO with accuracy, format and reflection rewards
	$(RUN) grpo --config $(CONFIGS)/grpo.yaml $(ARGS)

eval: $(VENV)/.ready ## stage 4: every model of runs/EXP side by side
	$(RUN) eval --config $(CONFIGS)/eval.yaml $(ARGS)

reject: $(VENV)/.ready ## R1's recipe: rejection sampling, then SFT on what is kept
	$(RUN) reject --config $(CONFIGS)/reject.yaml $(ARGS)

final: $(VENV)/.ready ## R1's recipe: GRPO again
	$(RUN) grpo --config $(CONFIGS)/final.yaml $(ARGS)

audit: $(VENV)/.ready ## what does a reward wrongly pay? make audit REWARD=my_module:my_reward
	$(RUN) audit $(REWARD) $(ARGS)

report: $(VENV)/.ready ## table and HTML report of runs/EXP
	$(RUN) report runs/$(EXP)

tiny: $(VENV)/.ready ## train the embedded base model again, into runs/tiny/2-mixed (half an hour)
	$(RUN) sft --config experiments/demo/tiny.yaml $(ARGS)
	$(RUN) sft --config experiments/demo/tiny_mixed.yaml $(ARGS)

data: $(VENV)/.ready ## download GSM8K into datasets/, checksums pinned
	$(VENV)/bin/python -m data.download $(ARGS)

test: $(VENV)/.ready-dev ## run the tests, but for further cases and long runs (a few minutes on two cores)
	$(VENV)/bin/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.ready-dev ## run all tests
	$(VENV)/bin/python -m pytest -n 2

fuzz: $(VENV)/.ready-dev ## throw random answers at the grader, mutated settings and data at the readers
	$(VENV)/bin/python tests/tools/fuzz_answer.py --inputs 1000000 $(ARGS)
	$(VENV)/bin/python tests/tools/fuzz_config.py --inputs 100000 $(ARGS)

chaos: $(VENV)/.ready-dev ## kill all stages at random moments; compare what they end with, bit for bit
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/tools/chaos.py --kills 200 $(ARGS)

soak: $(VENV)/.ready-dev ## an hour of the demo's stages in one process, which must not grow
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/tools/soak.py --minutes 60 $(ARGS)

bench: $(VENV)/.ready-dev ## a training step of ours, TRL's and a plain loop, side by side (45 minutes, an idle machine)
	PYTHONPATH=. $(VENV)/bin/python experiments/bench.py --model $(MODEL) --device $(DEVICE) $(ARGS)

parity: $(VENV)/.ready-dev ## our loss and its gradient beside those of TRL's installed GRPOTrainer, as a table
	$(VENV)/bin/python tests/parity_trl.py

docs: $(VENV)/.ready-figures ## write docs/glossary.md, docs/step.md and the demo's figure from the code and the results
	PYTHONPATH=. $(VENV)/bin/python tests/readme.py
	$(VENV)/bin/python -m experiments.step
	$(VENV)/bin/python -m experiments.pages

lint: $(VENV)/.ready-dev ## check style
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup demo ablate paper minimal base sft grpo eval reject final audit bench parity fuzz chaos soak report tiny data test test-all docs lint clean help
