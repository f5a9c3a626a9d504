"""Makes `python -m jaxllm` the same command as `jaxllm`."""

import sys

from jaxllm.cli.main import main

sys.exit(main())
