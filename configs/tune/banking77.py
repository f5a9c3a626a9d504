r"""Sorting short messages into intents: banking77 with a small encoder, from scratch.

77 classes of questions to a bank (Casanueva et al. 2020, arXiv:2003.04807); a tenth of the rows is
held out. Ten minutes on two cores. The tokenizer is trained on the rows' own text:
  jaxllm prepare --config=configs/data/text.py --workdir=data/banking77 \
    --config.input.paths="('train.csv',)" --config.tokenizer.mask=True \
    --config.tokenizer.vocab_size=4000
  jaxllm train --config=configs/tune/banking77.py --workdir=runs/banking77
With `:pretrained` a BERT base is tuned instead, which needs fewer steps and an accelerator.

`:debug` goes on from a debug run and sorts decisions of the Federal Reserve:
  jaxllm train --config=configs/bert.py:debug --workdir=runs/debug/bert
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: pretrained, debug (seconds on a CPU)."""
    check_variant(variant, ("pretrained", "debug"))
    config = default_config()
    finetune(
        config, "", {"intents": "data/banking77.csv"}, objective="classification", length=48,
        batch=64, rate=1e-3, steps=2500,
    )
    config.data.mixture.intents.update(columns={"label": "category"}, validation_share=0.1)
    config.data.truncate = True  # one message in sixty is longer
    config.model.preset = "bert_debug"
    config.model.update(width=128, layers=2, dropout=0.2)
    config.tokenizer.path = "data/banking77/tokenizer"
    config.optimizer.weight_decay = 0.05
    config.train.remat = "none"
    config.eval.evaluators = ("classification",)
    if variant:
        config.train.init_from = "models/bert-base-uncased"
        config.model = default_config().model
        config.tokenizer.path = ""
        config.optimizer.update(learning_rate=5e-5, weight_decay=0.01)
        config.train.steps = 1500
    if variant == "debug":
        shrink_tuning(config, "bert", {"intents": "decisions.jsonl"})
    return config
