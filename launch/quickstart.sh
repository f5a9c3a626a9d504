#!/usr/bin/env bash
# The whole life of a small model on a laptop, one verb at a time: a few minutes on two cores.
# What is finished is not done again: after an interruption simply start it once more.
set -euo pipefail
SECONDS=0 # bash counts on from here
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

GENERAL=runs/quickstart/data/shakespeare  # the plays: the text the model learns first
DOMAIN=runs/quickstart/data/fomc          # statements of the US Federal Reserve: its new domain
BASE=runs/quickstart/base
ALONE=runs/quickstart/domain_no_replay
DOMAINED=runs/quickstart/domain
ASSISTANT=runs/quickstart/assistant

say() { printf '\n== %s\n' "$*"; }

say "Prepare: raw text becomes a tokenizer and shards of tokens"
jaxllm prepare --config=configs/data/shakespeare.py --workdir=$GENERAL
jaxllm prepare --config=configs/data/fomc.py --workdir=$DOMAIN

say "Preview: what one batch looks like to the model"
jaxllm preview --config=configs/quickstart.py

say "Train: a small Llama-shaped model from scratch on the general text"
jaxllm train --config=configs/quickstart.py --workdir=$BASE

say "Adapt: the same model continues on the domain, first with nothing else to read …"
jaxllm train --config=configs/quickstart_domain.py:no_replay --workdir=$ALONE
say "… then with a tenth of the general text replayed: less is forgotten"
jaxllm train --config=configs/quickstart_domain.py --workdir=$DOMAINED

say "Instruct: LoRA adapters learn to answer, the model below them stays as it is"
jaxllm preview --config=configs/quickstart_instruct.py --rows=1
jaxllm train --config=configs/quickstart_instruct.py --workdir=$ASSISTANT

say "Evaluate: what did each learn of the domain, what did it forget of the rest?"
jaxllm eval --model=$BASE,$ALONE,$DOMAINED,$ASSISTANT --data=$GENERAL,$DOMAIN \
  --sequence_length=128 # for all the same: the assistant was trained on longer rows

say "Generate: the general and the domain model continue the same words …"
jaxllm generate --model=$BASE --prompt="The Committee decided to" --temperature=0.5
jaxllm generate --model=$DOMAINED --prompt="The Committee decided to" --temperature=0.5
say "… and the assistant answers a question"
jaxllm generate --model=$ASSISTANT --chat --temperature=0 \
  --prompt="What did the Federal Open Market Committee decide on September 16, 2003?"

say "Report: the runs on one page"
jaxllm report $BASE $ALONE $DOMAINED $ASSISTANT

say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Open $ASSISTANT/report.html in a browser."
cat <<'END'
Try next (the environment is on after `source launch/env.sh`):
  jaxllm generate --model=runs/quickstart/base --prompt="ROMEO:"
  jaxllm train --config=configs/quickstart.py --workdir=runs/slower \
    --config.optimizer.learning_rate=1e-3
  jaxllm report runs/quickstart/base runs/slower
END
