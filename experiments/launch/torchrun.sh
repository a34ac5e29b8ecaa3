#!/usr/bin/env bash
# Stages on the GPUs of one machine: experiments/launch/torchrun.sh EXP [key.sub=value ...]
#   experiments/launch/torchrun.sh gsm8k model.path=Qwen/Qwen2.5-7B-Instruct parallel=fsdp
# Two CPU processes, to try it out: GPUS=2 DEVICE=cpu experiments/launch/torchrun.sh demo
set -euo pipefail
cd "$(dirname "$0")/../.."
exp=${1:?which folder under experiments/?}
shift
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
run() { .venv/bin/torchrun --standalone --nproc-per-node "$gpus" -m grpo "$@" "model.device=${DEVICE:-cuda}"; }
# settings of the first stage's model are for the first stage alone
later=()
for setting in "$@"; do [[ $setting == model.path=* ]] || later+=("$setting"); done
run sft --config "experiments/$exp/sft.yaml" "$@"
run grpo --config "experiments/$exp/grpo.yaml" ${later[@]+"${later[@]}"}
run reject --config "experiments/$exp/reject.yaml" ${later[@]+"${later[@]}"}
run grpo --config "experiments/$exp/final.yaml" ${later[@]+"${later[@]}"}
.venv/bin/python -m grpo report "runs/$exp"
