#!/usr/bin/env bash
# Sets up and runs the tests on two processes; arguments go to pytest (--slow adds the long tests).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

JAXLLM_EXTRAS=test,parity,prep,eval,report,dev,tpu
source launch/env.sh
python -m pytest -n 2 "$@"
