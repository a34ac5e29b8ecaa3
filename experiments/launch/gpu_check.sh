#!/usr/bin/env bash
# Does all of it run on this machine's GPU, and how fast? Needs no network, and at most 8 minutes.
#   experiments/launch/gpu_check.sh OUT
# It runs the tests that need a GPU, the demo's four stages on the GPU, and `grpo bench` on randomly initialised models
# of the shapes of Qwen2.5-0.5B and 1.5B, beside a plain loop over `generate` and TRL (where it is installed). It prints
# one table, and writes it to the folder OUT (gpu_check.md; every figure in gpu_check.json). The most telling rows come
# first; rows for which no time is left say so, and so does a row that fails. BUDGET=1800 gives it more seconds.
# To try the script itself on a CPU, in a minute: DEVICE=cpu SCALE=small experiments/launch/gpu_check.sh OUT
# What it printed on an H100: experiments/results/gpu_h100.md.
set -euo pipefail
out=$(mkdir -p "${1:?where to write the table?}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" experiments/launch/gpu_check.py "$out" \
    --device "${DEVICE:-cuda}" --scale "${SCALE:-full}" --budget "${BUDGET:-460}"
