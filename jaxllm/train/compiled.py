"""A compiled step kept in a folder: `jaxllm check` writes it, a run loads it instead of compiling.

The executable is PJRT's own bytes, as in jax's compilation cache; jax.experimental's
serialize_executable would pickle. jax's cache itself cannot be filled ahead of a run on a TPU: its
key has in it what differs between a machine without chips and one with them (LIBTPU_INIT_ARGS, to
which jax adds a flag where it finds chips; with jax 0.10 also the paths of the kernels' source).
So the step has a key of its own, of named parts: what differs can be told, and nothing is loaded
that was compiled for something else. The run hands the bytes to jax as its cache's answer: calling,
donation and layouts stay jax's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jaxlib

import jaxllm
from jaxllm.core.config import to_dict
from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, make_directory, path
from jaxllm.data.batch import Batch
from jaxllm.train.config import Config
from jaxllm.train.losses import LossOptions
from jaxllm.train.program import abstract_state, compile_step, on_all_hosts, trace_step
from jaxllm.train.state import Setup

FILE, EXECUTABLE, FORMAT = "compiled.json", "step.pjrt.zlib", 1
# Flags that change nothing of the step; the last is jax's own, added where it finds TPU chips.
IGNORED_FLAGS = ("--xla_dump_", "--xla_force_host_platform_device_count",
                 "--xla_tpu_use_enhanced_launch_barrier")
# jax's own settings that go to the compiler beside the options.
JAX_SETTINGS = (
    "jax_optimization_level", "jax_memory_fitting_level", "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort", "jax_enable_remat_opt_pass", "jax_disable_most_optimizations",
)
SYMBOL = r'@("[^"]*"|[\w.$-]+)'  # of MLIR
# Parts of a config that are not in the step.
OUTSIDE = ("checkpoint.", "eval.", "tokenizer.", "data.mixture.")


@dataclass(frozen=True)
class Stored:
    """A folder's compiled.json: `key` names all that the step was compiled from."""

    folder: str
    key: dict[str, Any]
    config: dict[str, Any]  # the recipe's fields by dotted name
    made_by: str  # such as "jaxllm 0.1.0"
    sha256: str  # of the executable
    seconds: int  # that compiling it took


def compile_and_save(
    folder: str, config: Config, setup: Setup, options: LossOptions, batch: Batch, seconds: float,
) -> int:
    """Compiles the step for batches like this one into `folder`; the bytes that were written.

    Args:
      seconds: that compiling took before, which jax keeps beside an executable.

    Raises:
      UserError: the folder cannot be written.
    """
    traced, chosen = trace_step(config, setup, options, abstract_state(setup), batch)
    key = _key(traced, chosen, setup)
    with _answering(None):  # XLA's CPU programs lose functions when they are loaded and saved again
        compiled = traced.lower().compile(compiler_options=chosen or None)
    executable = compiled.runtime_executable().serialize()
    place = make_directory(folder)
    content = zlib.compress(executable, 1)
    atomic_write_bytes(place / EXECUTABLE, content)
    atomic_write_text(place / FILE, json.dumps({
        "format": FORMAT, "made_by": f"jaxllm {jaxllm.__version__}", "key": key,
        "sha256": hashlib.sha256(executable).hexdigest(), "seconds": int(seconds),
        "config": _flat(_with_model(config, setup)),
    }, indent=1) + "\n")
    return len(content)


def read(folder: str) -> Stored:
    """What the folder says that it holds.

    Raises:
      UserError: it holds no compiled step, or one written by another version's rules.
    """
    again = f"Write it with jaxllm check --save-compiled={folder}, or leave --compiled away."
    try:
        content = json.loads((path(folder) / FILE).read_text())
        if content.pop("format") != FORMAT:
            raise UserError(f"--compiled={folder} was written by another jaxllm's rules. {again}")
        return Stored(folder, **content)
    except OSError as error:
        raise UserError(f"--compiled={folder} has no {FILE} that can be read. {again}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"--compiled={folder}: {FILE} is damaged ({error}). {again}") from error


def load_or_compile(
    stored: Stored, config: Config, setup: Setup, options: LossOptions, batch: Batch,
    say: Callable[[str], None],
) -> jax.stages.Compiled:
    """The step of `stored` where it is this very one, or else the step compiled as usual.

    Says which, and why. Of several processes all load or none does.
    """
    arguments = (config, setup, options, abstract_state(setup), batch)
    traced, chosen = trace_step(*arguments)
    reason = difference(stored, _key(traced, chosen, setup), _flat(_with_model(config, setup)))
    executable = b""
    if not reason:
        try:
            executable = _executable(stored)
        except (OSError, ValueError, zlib.error) as error:
            reason = f"its executable cannot be read ({error})"
    if on_all_hosts(not reason):
        compiled, reason = _load(stored, executable, traced.lower(), chosen)
        if on_all_hosts(not reason):
            say(f"compiled step loaded from {stored.folder}")
            return compiled
    reason = reason or "another host of this run could not use it"
    say(f"the compiled step of {stored.folder} is not used: {reason}. Compiling")
    return compile_step(*arguments)


def difference(stored: Stored, key: dict[str, Any], config: dict[str, Any]) -> str:
    """The first part in which the stored step is another than the one of `key`; "": none.

    Args:
      key: of the step that is wanted.
      config: its recipe's fields by dotted name, to say more of another program.
    """
    there, here = stored.key, json.loads(json.dumps(key))
    for part, what in (
        ("devices", "it is for {} and here are {}"),
        ("jax", "jax {} compiled it and here is {}"),
        ("jaxlib", "jaxlib {} compiled it and here is {}"),
        ("compiler", "{} compiled it and here is {}"),
        ("flags", "XLA_FLAGS and LIBTPU_INIT_ARGS were {} and are {}"),
        ("options", "the compiler's options were {} and are {}"),
        ("settings", "jax's settings for the compiler were {} and are {}"),
    ):
        if there.get(part) != here[part]:
            return what.format(there.get(part), here[part])
    if there.get("places") != here["places"]:
        return "the mesh has its devices in another order, or they lie elsewhere in the slice"
    if there.get("program") == here["program"]:
        return ""
    config = json.loads(json.dumps(config))
    changed = [
        f"{name} was {stored.config.get(name)!r} and is {config.get(name)!r}"
        for name in sorted(stored.config.keys() | config.keys())
        if stored.config.get(name) != config.get(name) and not name.startswith(OUTSIDE)
    ]
    if changed:
        return f"the recipe is another: {'; '.join(changed[:4])}"
    return (
        f"the recipe is the same and its program is another: {stored.made_by} made that one, "
        f"jaxllm {jaxllm.__version__} this one, or a package differs"
    )


def fingerprint(text: str) -> str:
    """A hash of a StableHLO module's text, the same however its functions are named and shared.

    jax writes a function once or twice depending on what the process traced before.
    """
    module, _, resources = text.partition("\n}")  # the only line that closes the module
    bodies, header = {}, [resources]
    # Functions and meshes are defined at the module's first level, two spaces deep.
    for part in re.split(r"\n(?=  (?:func\.func|sdy\.mesh) )", module):
        found = re.match(rf"  (?:func\.func \w+|sdy\.mesh) {SYMBOL}", part)
        if found:
            bodies[found[1]] = part[:found.start(1)] + part[found.end(1):]
        else:
            header.append(part)
    known: dict[str, str] = {}

    def named(found: re.Match) -> str:
        name = found[1]
        if name not in bodies:
            return found[0]
        if name not in known:
            known[name] = hashed(bodies[name])
        return f"@{known[name]}"

    def hashed(part: str) -> str:
        resolved = re.sub(SYMBOL, named, part)
        return hashlib.sha256(resolved.encode()).hexdigest()

    return hashed("\n".join([*header, bodies["main"]]))


def _key(
    traced: jax.stages.Traced, options: dict[str, str | bool], setup: Setup
) -> dict[str, Any]:
    devices = setup.compute.sharding.mesh.devices
    with _without_paths():
        program = fingerprint(traced.lower().as_text())
    version = devices.flat[0].client.platform_version.splitlines()
    environment = (os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    flags = [flag for flags in environment for flag in flags.split()]
    return {
        "program": program,
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "jax": jax.__version__, "jaxlib": jaxlib.__version__,
        "compiler": ", ".join(line for line in version if line != "PJRT C API"),
        "flags": sorted(flag for flag in flags if not flag.startswith(IGNORED_FLAGS)),
        "options": options,
        "settings": {name: str(getattr(jax.config, name, None)) for name in JAX_SETTINGS},
        "places": [_place(device) for device in devices.flat],
    }


def _place(device: jax.Device) -> list[Any]:
    """A device's number and where it lies in the slice."""
    lies = (getattr(device, name, None) for name in ("coords", "core_on_chip", "slice_index"))
    return [device.id, *lies]


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps the source's paths out of what is lowered: older jax has them inside of kernels."""
    kept = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", kept)


def _executable(stored: Stored) -> bytes:
    content = zlib.decompress((path(stored.folder) / EXECUTABLE).read_bytes())
    if hashlib.sha256(content).hexdigest() != stored.sha256:
        raise ValueError(f"it is not the one that {FILE} was written for")
    return content


def _load(
    stored: Stored, executable: bytes, lowered: jax.stages.Lowered,
    options: dict[str, str | bool],
) -> tuple[jax.stages.Compiled | None, str]:
    """The step with `executable` in the place of what the compiler would give; or why not."""
    try:
        with _answering(executable, stored.seconds) as asked, warnings.catch_warnings():
            # jax warns of an entry that it cannot load, and compiles.
            warnings.filterwarnings("error", ".*persistent compilation cache entry")
            compiled = lowered.compile(compiler_options=options or None)
    except (ImportError, AttributeError) as error:
        return None, f"this jax keeps compiled programs in another way ({error})"
    except UserWarning as error:
        return None, f"its executable cannot be loaded ({str(error).splitlines()[0]})"
    if not asked:
        return None, "jax's compilation cache is turned off (jax_enable_compilation_cache)"
    return compiled, ""


@contextlib.contextmanager
def _answering(executable: bytes | None, seconds: int = 0) -> Iterator[list[str]]:
    """Has jax's compilation cache answer with `executable` (None: with nothing), and keep nothing.

    Gives the keys that were asked for. There is no public way to do so but pickle; jax asks
    whatever lies in `_cache`.
    """
    from jax._src import compilation_cache as cache
    from jax._src.compilation_cache_interface import CacheInterface

    asked: list[str] = []
    entry = None
    if executable is not None:
        entry = cache.compress_executable(cache.combine_executable_and_time(executable, seconds))

    class One(CacheInterface):
        """One program for whatever is asked."""

        _path = ""

        def get(self, key: str) -> bytes | None:
            asked.append(key)
            return entry

        def put(self, key: str, value: bytes) -> None:
            """What was compiled after all is compiled again without this, and kept then."""

    before = cache._cache
    cache._cache = One()
    try:
        yield asked
    finally:
        cache._cache = before


def _with_model(config: Config, setup: Setup) -> Config:
    return dataclasses.replace(config, model=setup.model)


def _flat(config: Config) -> dict[str, Any]:
    def walk(value: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from walk(inner, (*names, name))
        else:
            yield ".".join(names), value

    return dict(walk(to_dict(config), ()))
