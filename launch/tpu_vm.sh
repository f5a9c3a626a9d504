#!/usr/bin/env bash
# Trains on Cloud TPU VMs: asks for a slice, installs, runs, and starts anew after preemption.
#
#   launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE [options] [-- COMMAND …]
#
# Actions
#   create     ask for the slice as a queued resource, without waiting
#   wait       wait until it is there
#   install    copy this project to all workers and set it up there
#   run        start COMMAND on all workers; it goes on when this connection ends
#   logs       follow what worker 0 prints (--worker=N: another one)
#   status     the state of the slice, and of COMMAND on each worker
#   delete     give the slice back
#   supervise  create, wait, install, run and watch until COMMAND ends; a slice that was preempted
#              or failed is asked for again, and the same COMMAND resumes from its --workdir
#
# COMMAND is what a shell in the project would run, such as
#   -- jaxllm train --config=configs/llama3_8b.py --workdir=gs://BUCKET/run
# Its --workdir must be in a bucket: the disks of a slice go with it.
#
# Options
#   --name=NAME         of the queued resource and its nodes
#   --zone=ZONE         such as us-east5-a
#   --type=TYPE         accelerator type, such as v6e-16 (create, supervise)
#   --version=VERSION   runtime version (default: the one for the type)
#   --project=PROJECT   default: gcloud's own
#   --slices=N          slices joined over the data centre network (default: 1)
#   --spot              spot capacity: cheap, and taken away at any time
#   --reserved          capacity of a reservation
#   --extras=EXTRAS     what to install of the project (default: tpu)
#   --worker=N          of logs (default: 0)
#   --poll=SECONDS      between two looks of wait and supervise (default: 30)
#   --restarts=N        slices that supervise asks for after the first (default: 100)
#   --keep              supervise leaves the slice when COMMAND has ended
#   --dry-run           print the commands that would run, for pasting, and run none
#
# supervise ends with COMMAND's exit code when that is 0 (done), 2 (a mistake in the command) or
# 1 (a bug); 3 (interrupted, resumable) and anything else start it again.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/lib.sh
source "$HERE/lib.sh"

ACTIONS=(create wait install run logs status delete supervise)
SETTINGS=(name zone type version project slices extras worker poll restarts)
NAME='' ZONE='' TYPE='' VERSION='' PROJECT='' SLICES=1 EXTRAS=tpu WORKER=0 POLL=30 RESTARTS=100
KEEP=''
UNHEARD=20    # looks without an answer after which supervise gives a slice up
FOLDER=jaxllm # in the home folder of each worker

own_option() {
  case "$1" in
    --spot | --reserved) capacity "$1" ;;
    --keep) KEEP=yes ;;
    *) unknown "$1" ;;
  esac
}

check() {
  required_action
  required name my-run
  required zone us-east5-a
  whole slices poll restarts
  [[ "$WORKER" =~ ^[0-9]+$ ]] || refuse "--worker=$WORKER is no number of a worker, from 0 on."
  if [ "$ACTION" = create ] || [ "$ACTION" = supervise ]; then
    required type v6e-16
    [ -n "$VERSION" ] || VERSION="$(runtime_version)"
  fi
  case "$ACTION" in run | supervise) required_command gs://B/run ;; esac
  if [ "$ACTION" = supervise ]; then
    [[ " ${COMMAND[*]}" != *" --workdir="* || " ${COMMAND[*]}" == *" --workdir=gs://"* ]] ||
      refuse "--workdir must be in a bucket (gs://…): the disks of a slice go with it."
  fi
  need gcloud "See https://cloud.google.com/sdk/docs/install."
}

runtime_version() {
  case "$TYPE" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    v5e-*) refuse "--type=$TYPE: Google calls it v5litepod-${TYPE#v5e-}." ;;
    *) refuse "--type=$TYPE has no known runtime version: give --version." ;;
  esac
}

tpus() { # the gcloud command for a group and verb, with where it acts
  TPUS=(gcloud compute tpus "$@" "--zone=$ZONE")
  [ -z "$PROJECT" ] || TPUS+=("--project=$PROJECT")
}

nodes() {
  local slice
  if [ "$SLICES" -eq 1 ]; then
    echo "$NAME"
  else
    for ((slice = 0; slice < SLICES; slice++)); do echo "$NAME-$slice"; done
  fi
}

create() {
  tpus queued-resources create "$NAME"
  TPUS+=("--accelerator-type=$TYPE" "--runtime-version=$VERSION")
  if [ "$SLICES" -eq 1 ]; then
    TPUS+=("--node-id=$NAME")
  else
    TPUS+=("--node-count=$SLICES" "--node-prefix=$NAME")
  fi
  [ -z "$CAPACITY" ] || TPUS+=("$CAPACITY")
  retry "${TPUS[@]}" --async --quiet
}

# The state of the queued resource; MISSING when there is none, UNKNOWN when gcloud cannot say.
state() {
  local told code=0 wait="$LAUNCH_WAIT" try
  tpus queued-resources describe "$NAME"
  for ((try = 1; try <= LAUNCH_TRIES; try++)); do
    code=0
    told="$("${TPUS[@]}" '--format=value(state.state)' 2>&1)" || code=$?
    if [ "$code" -eq 0 ]; then
      echo "${told##*$'\n'}"
      return
    elif [[ "$told" == *NOT_FOUND* || "$told" == *"was not found"* ]]; then
      echo MISSING
      return
    fi
    say "gcloud cannot say how $NAME is (try $try of $LAUNCH_TRIES): $told"
    [ "$try" -eq "$LAUNCH_TRIES" ] || sleep "$wait"
    wait=$((wait * 2))
  done
  echo UNKNOWN
}

# Waits for the slice: 0 it is there, 1 it will not come.
wait_for() {
  local now before=''
  if [ -n "$DRY_RUN" ]; then
    tpus queued-resources describe "$NAME"
    show "${TPUS[@]}" '--format=value(state.state)'
    return
  fi
  while true; do
    now="$(state)"
    [ "$now" = "$before" ] || say "$NAME is $now"
    before="$now"
    case "$now" in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | MISSING | UNKNOWN) return 1 ;;
    esac
    sleep "$POLL"
  done
}

# Runs a line of shell on workers of each slice: which (all or a number), line.
on_workers() {
  local node
  for node in $(nodes); do
    tpus tpu-vm ssh "$node"
    retry "${TPUS[@]}" "--worker=$1" --quiet "--command=$2" || return
  done
}

install() {
  local node archive=/tmp/jaxllm-$NAME.tar.gz setup
  run tar -C "$(dirname "$HERE")" -czf "$archive" --exclude=./.git --exclude=./.venv \
    --exclude=./runs --exclude=./data --exclude=__pycache__ . || return
  for node in $(nodes); do
    tpus tpu-vm scp "$archive"
    retry "${TPUS[@]}" "$node:jaxllm.tar.gz" --worker=all --quiet || return
  done
  setup="mkdir -p $FOLDER && tar -C $FOLDER -xzf jaxllm.tar.gz && cd $FOLDER && "
  setup+="JAXLLM_EXTRAS=$(quoted "$EXTRAS") bash -c 'source launch/env.sh'"
  on_workers all "$setup"
}

# Starts COMMAND on each worker, in a session of its own, unless it is running there already. Its
# output goes to run.log and its exit code to run.code, both beside the project.
start() {
  local inner line
  inner="source launch/env.sh; code=0; $(quoted "${COMMAND[@]}") || code=\$?; "
  inner+="echo \$code > ../run.code.new; mv ../run.code.new ../run.code"
  line="cd $FOLDER || exit 1; "
  line+="if [ -f ../run.pid ] && kill -0 \"\$(cat ../run.pid)\" 2>/dev/null; "
  line+="then echo running already; else rm -f ../run.code; "
  line+="JAXLLM_EXTRAS=$(quoted "$EXTRAS") setsid nohup "
  line+="bash -c $(quoted "$inner") >> ../run.log 2>&1 < /dev/null & "
  line+="echo \$! > ../run.pid; fi"
  on_workers all "$line"
}

# What each worker says of COMMAND, a line each: CODE n, RUNNING, or GONE (it ended without a word).
# shellcheck disable=SC2016
ASK='if [ -f run.code ]; then echo CODE "$(cat run.code)"; elif [ -f run.pid ] && \
kill -0 "$(cat run.pid)" 2>/dev/null; then echo RUNNING; else echo GONE; fi'

status() {
  local node code=0
  for node in $(nodes); do
    tpus tpu-vm ssh "$node"
    run "${TPUS[@]}" --worker=all --quiet "--command=$ASK" || code=$?
  done
  return "$code"
}

logs() {
  local node
  node="$(nodes | head -n 1)"
  tpus tpu-vm ssh "$node"
  run "${TPUS[@]}" "--worker=$WORKER" --quiet "--command=tail -n 100 -F run.log"
}

delete() {
  tpus queued-resources delete "$NAME"
  retry "${TPUS[@]}" --force --quiet
}

# Waits for the end of COMMAND and sets CODE: its exit code, or "lost" when the slice was.
watch_run() {
  local told now unheard=0
  while true; do
    now="$(state)"
    case "$now" in
      FAILED | SUSPENDING | SUSPENDED | DELETING | MISSING)
        say "$NAME is $now"
        CODE=lost
        return
        ;;
    esac
    if told="$(status 2>/dev/null)"; then
      CODE="$(printf '%s\n' "$told" | verdict)"
      [ "$CODE" = running ] || return 0
      unheard=0
    elif [ "$((unheard += 1))" -ge "$UNHEARD" ]; then
      say "$NAME is $now, and not all of its workers answered $unheard times: it is given up"
      CODE=lost
      delete || true
      return
    fi
    sleep "$POLL"
  done
}

# Of the workers' answers the one that counts: a mistake, a bug, done by all, or still running.
verdict() {
  awk '
    $1 == "CODE" { seen[$2] = 1; if ($2 != 0 && $2 != 1 && $2 != 2) again = 1 }
    $1 == "RUNNING" { running = 1 }
    $1 == "GONE" { again = 1 }
    END {
      if (2 in seen) print 2
      else if (1 in seen) print 1
      else if (running) print "running"
      else if (again) print 3
      else if (0 in seen) print 0
      else print "running"
    }'
}

# A slice that is there and set up: 0, or 1 when it was lost on the way.
obtain() {
  local now
  now="$(state)"
  case "$now" in
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      say "$NAME is $now: it is deleted and asked for again"
      delete || say "deleting $NAME failed; it may be gone already"
      create || return
      ;;
    MISSING) create || return ;;
  esac
  wait_for && install
}

show_supervise() {
  local action
  echo "# until the command ends by itself; after a preemption: delete, and again from the top"
  for action in create wait_for install start status; do $action; done
  [ -n "$KEEP" ] || delete
}

supervise() {
  local round CODE
  if [ -n "$DRY_RUN" ]; then
    show_supervise
    return
  fi
  for ((round = 0; round <= RESTARTS; round++)); do
    [ "$round" -eq 0 ] || say "start $((round + 1)) of at most $((RESTARTS + 1))"
    CODE=lost
    if obtain && start; then
      watch_run
    elif [ "$round" -eq 0 ] && [ "$(state)" = MISSING ]; then
      say "$NAME could not be asked for; what gcloud said is above"
      return 1
    fi
    case "$CODE" in
      0 | 1 | 2)
        [ "$CODE" -eq 0 ] || last_words
        [ -n "$KEEP" ] || delete
        say "the command ended with exit code $CODE"
        return "$CODE"
        ;;
    esac
    sleep "$POLL"
  done
  say "gave up after $RESTARTS restarts; the checkpoints stay where they are"
  return 3
}

last_words() {
  local node
  node="$(nodes | head -n 1)"
  tpus tpu-vm ssh "$node"
  "${TPUS[@]}" --worker=0 --quiet "--command=tail -n 30 run.log" >&2 || true
}

parse "$@"
check
case "$ACTION" in
  wait) wait_for || refuse "$NAME will not come; look with: ${0##*/} status" ;;
  run) start ;;
  *) "$ACTION" ;;
esac
