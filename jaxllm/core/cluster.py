"""Which processes make up this run, and how this one finds the others.

A run on several hosts is one process per host (or per GPU), told apart by a number. Who they are
is stated by flags or the environment, or known from Slurm, from a Cloud TPU's metadata, or from
Kubernetes; jax.distributed then joins them. What happens when one of them fails: core/watch.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import urllib.request
from collections.abc import Mapping

from jaxllm.core import watch
from jaxllm.core.errors import UserError

Environment = Mapping[str, str]

START_SECONDS = 300  # for the last process to come; a pod's machines boot minutes apart
METADATA_SECONDS = 3
# What must be known of a run, by flag, and the variables that say it where the flag does not.
# The later ones of each are set by Kubernetes launchers (XPK, JobSet) beside a coordinator.
VARIABLES = {
    "coordinator": ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_IP"),
    "processes": ("JAX_NUM_PROCESSES", "NNODES"),
    "process": ("JAX_PROCESS_ID", "NODE_RANK", "JOB_COMPLETION_INDEX"),
}
EXAMPLE = "--coordinator=10.0.0.1:8476 --processes=2 --process=0"


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among those of its run; None is what jax finds out itself (on TPUs)."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] | None = None  # None: all of the host's


def find(told: Environment, environment: Environment = os.environ) -> Place | None:
    """This process's place; None when it trains alone.

    Args:
      told: values of the flags `coordinator`, `processes` and `process` that were given.

    Raises:
      UserError: what is stated is incomplete or cannot be.
    """
    stated = _stated(told, environment)
    if stated.keys() == {"processes"} and _number(*stated["processes"], least=1) == 1:
        return None
    known = _slurm(environment) or _tpu(environment)
    if not stated:
        return known or _kubernetes(environment)
    missing = [name for name in VARIABLES if name not in stated]
    if missing and known is None:
        raise _incomplete(stated, missing)
    return dataclasses.replace(known or Place(), **_checked(stated, environment))


def connect(place: Place) -> None:
    """Joins the other processes, and watches over them from now on; once is enough.

    Raises:
      UserError: the coordinator's address cannot be used on process 0.
    """
    if watch.current:
        return
    import jax

    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given = {
        "coordinator_address": place.coordinator, "num_processes": place.processes,
        "process_id": place.process,
    }
    # Whole places are not completed by jax: under Slurm it would hide all GPUs but one.
    whole = None not in given.values()
    watch.before_connecting(place.coordinator, place.processes, START_SECONDS)
    try:
        jax.distributed.initialize(
            **given,
            local_device_ids=place.local_devices,
            cluster_detection_method="deactivate" if whole else None,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=watch.BACKSTOP_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"The processes of the run could not be joined at --coordinator="
            f"{place.coordinator or 'the address that jax found'}: {' '.join(str(error).split())}. "
            "Give the address of the host of process 0, with a port that is free there and open "
            "to the others."
        ) from error
    watch.start()


def _stated(told: Environment, environment: Environment) -> dict[str, tuple[str, str]]:
    """Value and name of what flags and environment state, by field."""
    found = {}
    for field, names in VARIABLES.items():
        if told.get(field):
            found[field] = (str(told[field]), f"--{field}")
        elif environment.get(names[0]):
            found[field] = (environment[names[0]], names[0])
    beside = "coordinator" in found or bool(environment.get("JAX_COORDINATOR_IP"))
    for field, names in VARIABLES.items() if beside else ():
        name = next((n for n in names if environment.get(n)), None)
        if field not in found and name:
            found[field] = (environment[name], name)
    return found


def _checked(
    stated: dict[str, tuple[str, str]], environment: Environment
) -> dict[str, str | int]:
    values: dict[str, str | int] = {}
    if "coordinator" in stated:
        values["coordinator"] = _address(*stated["coordinator"], environment)
    if "processes" in stated:
        values["processes"] = _number(*stated["processes"], least=1)
    if "process" in stated:
        values["process"] = _number(*stated["process"], least=0)
    count, index = values.get("processes"), values.get("process")
    if count is not None and index is not None and index >= count:
        name, of = stated["process"][1], stated["processes"][1]
        raise UserError(
            f"{name}={index} is no process of {of}={count}: they are numbered 0 to {count - 1}. "
            f"Give each host its own number from 0, or raise {of} to {index + 1}."
        )
    return values


def _incomplete(stated: dict[str, tuple[str, str]], missing: list[str]) -> UserError:
    given = ", ".join(f"{name}={value}" for value, name in stated.values())
    wanted = " and ".join(f"--{name} (or {VARIABLES[name][0]})" for name in missing)
    unset = " and ".join(name for _, name in stated.values())
    return UserError(
        f"{given} states a part of a run on several hosts, and {wanted} is missing. State all "
        f"three, such as {EXAMPLE}, or leave out {unset} to train on this host alone."
    )


def _address(value: str, name: str, environment: Environment) -> str:
    port = environment.get("JAX_COORDINATOR_PORT", "")
    if port and not re.search(r":\d+$", value):
        value = f"{value}:{port}"
    match = re.fullmatch(r"[^\s/]+:(\d+)", value)
    if not match or not 0 < int(match[1]) < 65536:
        raise UserError(
            f"{name}={value!r} is no address of process 0: it wants HOST:PORT with a port from 1 "
            "to 65535, such as 10.0.0.1:8476, the same for all processes."
        )
    return value


def _number(value: str, name: str, least: int) -> int:
    if not re.fullmatch(r"\d+", value.strip()) or int(value) < least:
        raise UserError(
            f"{name}={value!r} is no whole number from {least} on. Write for example {EXAMPLE}."
        )
    return int(value)


def _slurm(environment: Environment) -> Place | None:
    """The place in a job step of several tasks; salloc's shell, which has the job's, is alone."""
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if count <= 1:
        return None
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    absent = [name for name in names if name not in environment]
    if absent:
        raise UserError(
            f"SLURM_STEP_NUM_TASKS={count} says that this is one of several tasks, but "
            f"{', '.join(absent)} is not set. Start every task with srun, and let it hand on its "
            "environment (--export=ALL)."
        )
    job = int(environment["SLURM_JOB_ID"])
    port = environment.get("JAX_COORDINATOR_PORT") or str(61440 + job % 4096)
    return Place(
        f"{_first_host(environment['SLURM_STEP_NODELIST'])}:{port}", count,
        int(environment["SLURM_PROCID"]), _own_gpu(environment),
    )


def _first_host(nodes: str) -> str:
    """node-001 of node-001,other or node-[001-016,020],other."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    return match[1] + (match[2] or "")


def _own_gpu(environment: Environment) -> tuple[int, ...] | None:
    """The GPU of a task that shares its node's with as many others; None: all that it sees.

    A task alone on its node has every GPU there. Where Slurm gave the tasks a GPU each, a task
    sees one only.
    """
    match = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    tasks = int(match[0]) if match else 1
    visible = [v for v in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    if tasks == 1 or len(visible) != tasks:
        return None
    return (int(environment["SLURM_LOCALID"]),)


def _tpu(environment: Environment) -> Place | None:
    """An empty place on a TPU slice, or several, of more than one host: jax knows how to ask."""
    if environment.get("JAX_PLATFORMS") == "cpu":
        return None
    slices = environment.get("MEGASCALE_NUM_SLICES")
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts is None and _on_tpu_vm(environment):
        hosts = _metadata("worker-network-endpoints", environment)
        match = re.search(
            r"MEGASCALE_NUM_SLICES\W+(\d+)", _metadata("tpu-env", environment) or ""
        )
        slices = slices or (match[1] if match else None)
    if hosts is None:
        return None
    return Place() if len(hosts.split(",")) * int(slices or 1) > 1 else None


def _on_tpu_vm(environment: Environment) -> bool:
    files = ("/dev/accel0", "/dev/vfio/0")
    return (
        any(os.path.exists(name) for name in files)
        and "TPU_SKIP_MDS_QUERY" not in environment
        and importlib.util.find_spec("libtpu") is not None
    )


def _metadata(name: str, environment: Environment) -> str | None:
    """An attribute of this virtual machine, from Google Cloud's metadata server."""
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{name}",
        headers={"Metadata-Flavor": "Google"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=METADATA_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return None


def _kubernetes(environment: Environment) -> Place | None:
    """An empty place in an indexed Job whose pods jax can ask Kubernetes for.

    Raises:
      UserError: it is a pod beside others, and who they are is not known.
    """
    index = environment.get("JOB_COMPLETION_INDEX", "")
    if not index or "KUBERNETES_SERVICE_HOST" not in environment:
        return None
    if environment.get("TPU_WORKER_HOSTNAMES"):
        return None  # a slice of one host
    if importlib.util.find_spec("kubernetes") is not None:
        return Place()
    raise UserError(
        f"JOB_COMPLETION_INDEX={index} says that this is a pod of an indexed Kubernetes Job, but "
        "not of how many. Set JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES in the pod (the "
        "number of the process is the index), or JAX_NUM_PROCESSES=1 for pods that run alone."
    )
