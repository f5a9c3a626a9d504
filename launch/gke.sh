#!/usr/bin/env bash
# Trains on Google Kubernetes Engine through xpk: one JobSet of one pod per host.
#
#   launch/gke.sh ACTION --cluster=CLUSTER --name=NAME [options] [-- COMMAND …]
#
# Actions
#   image    build the container image of this project and push it
#   create   start COMMAND on every host of the slices
#   list     the workloads of the cluster and their states
#   logs     follow what the first pod prints
#   delete   stop the workload
#
# COMMAND is what a shell in the image would run, such as
#   -- jaxllm train --config=configs/llama3_8b.py --workdir=gs://BUCKET/run
#
# Options
#   --cluster=CLUSTER   the cluster that `xpk cluster create` made
#   --name=NAME         of the workload
#   --type=TYPE         TPU type, such as v6e-256 (create)
#   --device=TYPE       GPU type instead, such as h200-141gb-8 (create)
#   --slices=N          TPU slices (default: 1)
#   --nodes=N           GPU nodes (default: 1)
#   --image=IMAGE       name of the image in your registry (image, create)
#   --extra=EXTRA       what the image can run on: tpu or cuda (default: tpu)
#   --project=PROJECT   --zone=ZONE   default: gcloud's own
#   --spot              --reservation=NAME   capacity, where the cluster provisions itself
#   --priority=P        very-low, low, medium, high or very-high (default: medium)
#   --restarts=N        of the whole JobSet (default: 100)
#   --grace=SECONDS     between the notice of a preemption and the end of a pod (default: 120)
#   --dry-run           print the commands that would run, for pasting, and run none
#
# A pod that is preempted or killed, or a run that stops with exit code 3, restarts all pods, and
# the same COMMAND resumes from its --workdir. Exit codes 1 (a bug) and 2 (a mistake) end the
# workload.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/lib.sh
source "$HERE/lib.sh"

ACTIONS=(image create list logs delete)
SETTINGS=(cluster name type device slices nodes image extra project zone priority restarts grace)
CLUSTER='' NAME='' TYPE='' DEVICE='' SLICES=1 NODES=1 IMAGE='' EXTRA=tpu PROJECT='' ZONE=''
PRIORITY=medium RESTARTS=100 GRACE=120

own_option() {
  case "$1" in
    --spot | --reservation=*) capacity "$1" ;;
    *) unknown "$1" ;;
  esac
}

check() {
  required_action
  case "$ACTION" in image | logs) ;; *) required cluster my-cluster ;; esac
  case "$ACTION" in image | list) ;; *) required name my-run ;; esac
  case "$ACTION" in image | create) required image REGISTRY/PROJECT/jaxllm:1 ;; esac
  case "$EXTRA" in tpu | cuda) ;; *) refuse "--extra=$EXTRA is neither tpu nor cuda." ;; esac
  whole slices nodes restarts grace
  [ "$ACTION" != create ] || check_create
  case "$ACTION" in
    image) need docker "See https://docs.docker.com/engine/install." ;;
    logs) need kubectl "Install it with: gcloud components install kubectl" ;;
    *) need xpk "Install it with: pip install xpk" ;;
  esac
}

check_create() {
  [ -n "$TYPE$DEVICE" ] ||
    refuse "--type is missing. For example: --type=v6e-256; for GPUs --device=h200-141gb-8"
  [ -z "$TYPE" ] || [ -z "$DEVICE" ] ||
    refuse "--type=$TYPE and --device=$DEVICE exclude each other: name one."
  required_command gs://B/run
}

xpk_workload() { # the xpk command for a verb, with where it acts
  XPK=(xpk workload "$@" "--cluster=$CLUSTER")
  [ -z "$PROJECT" ] || XPK+=("--project=$PROJECT")
  [ -z "$ZONE" ] || XPK+=("--zone=$ZONE")
}

image() {
  run docker build "--file=$HERE/Dockerfile" "--build-arg=EXTRA=$EXTRA" "--tag=$IMAGE" \
    "$(dirname "$HERE")"
  retry docker push "$IMAGE"
}

create() {
  xpk_workload create
  XPK+=("--workload=$NAME" "--docker-image=$IMAGE" "--priority=$PRIORITY")
  if [ -n "$TYPE" ]; then
    XPK+=("--tpu-type=$TYPE" "--num-slices=$SLICES")
  else
    XPK+=("--device-type=$DEVICE" "--num-nodes=$NODES")
  fi
  [ -z "$CAPACITY" ] || XPK+=("$CAPACITY")
  XPK+=("--max-restarts=$RESTARTS" --restart-on-exit-codes=3)
  XPK+=("--termination-grace-period-seconds=$GRACE" "--command=$(quoted "${COMMAND[@]}")")
  run "${XPK[@]}" # once: a second try would find the workload of the first
}

list() {
  xpk_workload list
  retry "${XPK[@]}"
}

logs() {
  local first="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
  run kubectl logs --follow --tail=100 "--selector=$first"
}

delete() {
  xpk_workload delete
  retry "${XPK[@]}" "--workload=$NAME" --force
}

parse "$@"
check
"$ACTION"
