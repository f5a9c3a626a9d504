"""Compiler flags of the tests: programs this small are compiled longer than they run.

With them a step of the debug models compiles in a seventh of the time. `pytest --optimise` does
without, and compiles as a user's run does.
"""

from importlib.metadata import version

EVERYWHERE = "--xla_backend_optimization_level=0"
BEFORE_11 = "--xla_cpu_use_fusion_emitters=false"  # later compilers end at a flag they do not know

FLAGS = EVERYWHERE
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS = f"{EVERYWHERE} {BEFORE_11}"
