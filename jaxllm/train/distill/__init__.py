"""Knowledge distillation: from a teacher in the step, from what was kept of one, or from its texts.

The texts are `jaxllm.generate.distill`'s; a run on them is a fine-tuning like any other.
"""
