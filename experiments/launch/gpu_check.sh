#!/usr/bin/env bash
# Does all of it run on this machine's GPU, and how fast? Needs no network, and at most 8 minutes.
#   experiments/launch/gpu_check.sh OUT [tests] [sampling] [step] [real]        all of it, or what is named
# The tests that need a GPU; sampling with and without CUDA graphs, and a whole step beside TRL's (where it is installed),
# on random weights of the shapes of Qwen2.5-0.5B and 1.5B; and a real run: MODEL on GSM8K as it is, after SFT, and after
# as many steps of GRPO as the time allows (named alone it has all of it), on all test problems, compared in pairs.
#   MODEL=FOLDER (or FILE.gguf), default SmolLM2-135M-Instruct from the hub's cache; DATA=FOLDER of gsm8k_train.jsonl and
#   gsm8k_test.jsonl, default datasets/
# One table is printed and written to OUT/gpu_check.md after each row (every figure: gpu_check.json; each step of GRPO:
# real_grpo.jsonl); the most telling rows come first. Rows for which no time is left say so, and so does one that fails. BUDGET=1800 gives more seconds.
# To try the script itself on a CPU, in a few minutes: DEVICE=cpu SCALE=small experiments/launch/gpu_check.sh OUT
set -euo pipefail
absolute() { if [[ -e ${1:-} ]]; then realpath "$1"; else echo "${1:-}"; fi; }
out=$(mkdir -p "${1:?where to write the table?}" && cd "$1" && pwd)
model=$(absolute "${MODEL:-}") data=$(absolute "${DATA:-}")
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" experiments/launch/gpu_check.py "$out" "${@:2}" --model "$model" --data "$data" \
    --device "${DEVICE:-cuda}" --scale "${SCALE:-full}" --budget "${BUDGET:-460}"
