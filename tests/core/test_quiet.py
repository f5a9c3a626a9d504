"""What Orbax left behind stays unprinted, and nobody else's messages do (a fresh process)."""

import subprocess
import sys

PROGRAM = """
import asyncio, logging, sys
from pathlib import Path
from jaxllm.core import quiet
quiet.PACKAGES = (str(Path(sys.argv[1]) / "orbax") + "/",)
quiet.quiet_orbax()

class Late:
    def __init__(self, call): self.call = call
    def __del__(self): self.call()

loop = asyncio.new_event_loop()
loop.close()
Late(lambda: loop.call_soon_threadsafe(print))  # as a write does that ends after the first failed
Late(lambda: 1 / 0)

file = Path(sys.argv[1]) / "orbax" / "reader.py"
file.parent.mkdir()
file.write_text("async def read():\\n    try:\\n        await given_up\\n"
                "    finally:\\n        raise ValueError('of orbax')\\n\\n\\n"
                "def say(log):\\n    log.warning('said by orbax')\\n")
names = {}
exec(compile(file.read_text(), str(file), "exec"), names)

class Forever:
    def __await__(self): yield self

names["given_up"] = Forever()
read = names["read"]()
read.send(None)
del read  # Python closes it: "Exception ignored in"

logging.basicConfig()
names["say"](logging.getLogger("absl"))
logging.getLogger("absl").warning("said by another")
for text in ("Error reading x in OCDBT database", "of another"):
    future = asyncio.new_event_loop().create_future()
    future.set_exception(ValueError(text))
    del future  # "Future exception was never retrieved"
"""


def test_only_what_orbax_left_is_held_back(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for held in ("Event loop is closed", "of orbax", "said by orbax", "OCDBT"):
        assert held not in done.stderr
    for heard in ("ZeroDivisionError", "said by another", "of another"):
        assert heard in done.stderr
