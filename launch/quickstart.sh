#!/usr/bin/env bash
# The whole life of a small model on a laptop, one verb at a time: a few minutes on two cores.
# What is finished is not done again: after an interruption simply start it once more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

GENERAL=runs/quickstart/data/shakespeare  # the plays: the text the model learns first
DOMAIN=runs/quickstart/data/fomc          # statements of the US Federal Reserve: its new domain
BASE=runs/quickstart/base
TUNED=runs/quickstart/domain

say() { printf '\n== %s\n' "$*"; }

say "Prepare: raw text becomes a tokenizer and shards of tokens"
jaxllm prepare --config=configs/data/shakespeare.py --workdir=$GENERAL
jaxllm prepare --config=configs/data/fomc.py --workdir=$DOMAIN

say "Preview: what one batch looks like to the model"
jaxllm preview --config=configs/quickstart.py

say "Train: a small Llama-shaped model from scratch on the general text"
jaxllm train --config=configs/quickstart.py --workdir=$BASE

say "Train on: the same model continues on the domain, with some general text to remember"
jaxllm train --config=configs/quickstart_domain.py --workdir=$TUNED

say "Evaluate: what did it learn of the domain, what did it forget of the rest?"
jaxllm eval --model=$BASE,$TUNED --data=$GENERAL,$DOMAIN

say "Generate: both models continue the same words"
jaxllm generate --model=$BASE --prompt="The Committee decided to" --temperature=0.5
jaxllm generate --model=$TUNED --prompt="The Committee decided to" --temperature=0.5

say "Report: both runs on one page"
jaxllm report $BASE $TUNED
