#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster: submits a job of one process per node.
#
#   launch/slurm_gpu.sh --nodes=N [options] -- COMMAND …
#
# COMMAND is what a shell in the project would run on each node, such as
#   -- jaxllm train --config=configs/llama3_8b.py --workdir=/shared/run
# The project and the --workdir must be on a disk that all nodes share.
#
# Options
#   --nodes=N           nodes (default: 1)
#   --gpus=N            GPUs of each node (default: 8)
#   --name=NAME         of the job (default: jaxllm)
#   --partition=P       default: the cluster's
#   --time=LIMIT        such as 2-00:00:00; a job that reaches it saves and goes on in a new one
#   --sbatch=OPTION     any option of sbatch, such as --sbatch=--account=team; may be repeated
#   --extras=EXTRAS     what to install of the project (default: cuda)
#   --restarts=N        times that the job goes back to the queue (default: 100)
#   --dry-run           print the commands that would run, for pasting, and run none
#
# A job that is preempted, loses a node or reaches its time limit goes back to the queue under the
# same number, and the same COMMAND resumes from its --workdir. Before the time limit, and when
# Slurm gives notice of a preemption, the processes get SIGTERM and save. Exit codes 0, 1 (a bug)
# and 2 (a mistake) end the job. What it prints goes to NAME-NUMBER.log.
set -euo pipefail

if [ "${1:-}" = --inside ]; then
  HERE="$PWD/launch" # Slurm runs a copy of this file, in the folder of the project
else
  HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
fi
# shellcheck source=launch/lib.sh
source "$HERE/lib.sh"

SETTINGS=(nodes gpus name partition time extras restarts)
NODES=1 GPUS=8 NAME=jaxllm PARTITION='' TIME='' EXTRAS=cuda RESTARTS=100
SBATCH=() INSIDE=''
NOTICE=180 # seconds before the time limit to save in

own_option() {
  case "$1" in
    --sbatch=*) SBATCH+=("${1#*=}") ;;
    --inside) INSIDE=yes ;; # of the job: added when it is submitted
    *) unknown "$1" ;;
  esac
}

check() {
  whole nodes gpus restarts
  required_command /disk/run
}

submit() {
  local job=(sbatch "--job-name=$NAME" "--nodes=$NODES" --ntasks-per-node=1
    "--gpus-per-node=$GPUS" --exclusive --requeue --open-mode=append
    "--output=$NAME-%j.log" "--signal=B:USR1@$NOTICE" "--chdir=$(dirname "$HERE")")
  need sbatch "Run this on a login node of the cluster."
  [ -z "$PARTITION" ] || job+=("--partition=$PARTITION")
  [ -z "$TIME" ] || job+=("--time=$TIME")
  job+=("${SBATCH[@]}" "$HERE/slurm_gpu.sh" --inside "--extras=$EXTRAS" "--restarts=$RESTARTS")
  if [ -n "$DRY_RUN" ]; then
    show "${job[@]}" -- "${COMMAND[@]}"
    echo "# in the job, until the command ends by itself:"
    step_command
    show "${STEP[@]}"
  else
    retry "${job[@]}" -- "${COMMAND[@]}"
  fi
}

step_command() {
  local line
  line="source launch/env.sh && exec $(quoted "${COMMAND[@]}")"
  STEP=(srun --kill-on-bad-exit=0 --ntasks-per-node=1 bash -c "$line")
}

# Tells the processes to save and stop; what they do is seen by their exit code.
stop_step() {
  say "told to make room: the processes save and stop"
  scancel --signal=TERM "$SLURM_JOB_ID" || true
}

work() {
  local step code=0
  export JAXLLM_EXTRAS="$EXTRAS"
  bash -c "source launch/env.sh" # once, before all nodes look for it
  step_command
  trap stop_step USR1 TERM
  "${STEP[@]}" &
  step=$!
  wait "$step" || code=$?
  while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
    code=0
    wait "$step" || code=$?
  done
  case "$code" in
    0 | 1 | 2)
      say "the command ended with exit code $code"
      exit "$code"
      ;;
  esac
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$RESTARTS" ]; then
    say "gave up after $RESTARTS restarts; the checkpoints stay where they are"
    exit 3
  fi
  say "the command ended with exit code $code, which the same command resumes: back to the queue"
  retry scontrol requeue "$SLURM_JOB_ID"
}

parse "$@"
check
if [ -n "$INSIDE" ]; then work; else submit; fi
