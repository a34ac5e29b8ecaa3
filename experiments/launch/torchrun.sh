#!/usr/bin/env bash
# Stages on the GPUs of one machine: experiments/launch/torchrun.sh EXP [key.sub=value ...]
#   experiments/launch/torchrun.sh gsm8k model.path=Qwen/Qwen2.5-7B-Instruct parallel=fsdp
# Two CPU processes, to try it out: GPUS=2 DEVICE=cpu experiments/launch/torchrun.sh demo
# SIGTERM lets a run finish its step and save. torchrun waits 30 seconds for that by default, and then
# kills: a step may take longer, so here it waits longer (older ones of torch have no such option).
set -euo pipefail
cd "$(dirname "$0")/../.."
exp=${1:?which folder under experiments/?}
shift
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
patience=$(.venv/bin/torchrun --help | grep -q -- --shutdown-timeout && echo "--shutdown-timeout 600" || true)
# shellcheck disable=SC2086
run() { .venv/bin/torchrun $patience --standalone --nproc-per-node "$gpus" -m grpo "$@" "model.device=${DEVICE:-cuda}"; }
# a base model that is named is for the stages that start from the base
later=()
for setting in "$@"; do [[ $setting == model.path=* ]] || later+=("$setting"); done
for stage in base sft grpo eval; do
  [ -f "experiments/$exp/$stage.yaml" ] || continue
  case $stage in base | sft) settings=("$@") ;; *) settings=(${later[@]+"${later[@]}"}) ;; esac
  run "$stage" --config "experiments/$exp/$stage.yaml" ${settings[@]+"${settings[@]}"}
done
.venv/bin/python -m grpo report "runs/$exp"
