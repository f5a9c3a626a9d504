#!/usr/bin/env bash
# Prepares data on Google Dataflow: builds the image of its workers, and runs COMMAND in it.
#
#   launch/dataflow.sh ACTION --image=IMAGE [options] [-- COMMAND …]
#
# Actions
#   image    build the image of the workers and push it
#   run      run COMMAND in the image on this machine, which starts a Dataflow job for each phase
#
# COMMAND is a `jaxllm prepare` without a runner, such as
#   -- jaxllm prepare --config=configs/data/web_en.py --workdir=gs://BUCKET/web
# Its --workdir, the work folder in it and the input are read and written by all workers, so they
# must be in buckets, and so must evaluation sets and lists of words. Recipes are found in the folder that this is called from.
#
# Options
#   --image=IMAGE       name of the image in your registry
#   --project=PROJECT   of Google Cloud (run)
#   --region=REGION     where the workers are; best where the bucket is (run)
#   --temp=gs://…       for Dataflow's own files (default: --workdir of COMMAND and /dataflow)
#   --machines=N        at most (default: 100)
#   --machine=TYPE      of each (default: n2-standard-8)
#   --option=OPTION     any option of Beam, such as --option=--subnetwork=NAME; may be repeated
#   --dry-run           print the commands that would run, for pasting, and run none
#
# The command that started the jobs waits for them; it resumes when it is given again.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/lib.sh
source "$HERE/lib.sh"

ACTIONS=(image run)
SETTINGS=(image project region temp machines machine)
IMAGE='' PROJECT='' REGION='' TEMP='' MACHINES=100 MACHINE=n2-standard-8
OPTIONS=() WORKDIR=''

own_option() {
  case "$1" in
    --option=*) OPTIONS+=("${1#*=}") ;;
    *) unknown "$1" ;;
  esac
}

check() {
  required_action
  required image REGISTRY/PROJECT/jaxllm-prepare:1
  need docker "See https://docs.docker.com/engine/install."
  whole machines
  [ "$ACTION" != run ] || check_run
}

check_run() {
  local word
  required project my-project
  required region us-central1
  [ "${COMMAND[*]:0:2}" = "jaxllm prepare" ] ||
    refuse "no preparation is named. For example: … -- jaxllm prepare --config=FILE" \
      "--workdir=gs://BUCKET/data"
  for word in "${COMMAND[@]}"; do
    case "$word" in
      --workdir=*) WORKDIR="${word#*=}" ;;
      --runner=* | --) refuse "$word belongs to this launcher. Beam's own options are --option=…" ;;
    esac
  done
  [[ "$WORKDIR" == gs://* ]] ||
    refuse "--workdir must be in a bucket, which all workers reach. For example:" \
      "--workdir=gs://BUCKET/data"
}

image() {
  run docker build "--file=$HERE/dataflow.Dockerfile" "--tag=$IMAGE" "$(dirname "$HERE")"
  retry docker push "$IMAGE"
}

start() {
  local login="$HOME/.config/gcloud"
  run docker run --rm --entrypoint= "--volume=$login:/root/.config/gcloud" \
    "--volume=$PWD:$PWD" "--workdir=$PWD" "$IMAGE" \
    "${COMMAND[@]}" --runner=beam -- --runner=DataflowRunner "--project=$PROJECT" \
    "--region=$REGION" "--temp_location=${TEMP:-$WORKDIR/dataflow}" \
    "--sdk_container_image=$IMAGE" --sdk_location=container "--max_num_workers=$MACHINES" \
    "--worker_machine_type=$MACHINE" "${OPTIONS[@]}"
}

parse "$@"
check
case "$ACTION" in run) start ;; image) image ;; esac
