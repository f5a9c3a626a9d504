#!/usr/bin/env bash
# Sets up and runs the tests on two processes; arguments go to pytest (--thorough, --slow: more of them).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

JAXLLM_EXTRAS=test,parity,prep,eval,report,dev,tpu
source launch/env.sh
unset PYTHONDONTWRITEBYTECODE # the tests start a hundred processes: each would compile all of jaxllm
python -m pytest -n 2 "$@"
