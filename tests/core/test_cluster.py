"""Where a process stands in its run, read from flags and environments; no process is started."""

import http.server
import threading

import pytest

from jaxllm.core import cluster
from jaxllm.core.cluster import Place, find
from jaxllm.core.errors import UserError

STATED = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0",
}
SLURM = {
    "SLURM_JOB_ID": "5000", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu-[007-010]",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.1.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(cluster, "_on_tpu_vm", lambda environment: False)


@pytest.mark.parametrize(("told", "environment", "place"), [
    ({}, {}, None),
    ({}, STATED, Place("10.0.0.1:8476", 4, 0)),
    ({"process": "2"}, STATED, Place("10.0.0.1:8476", 4, 2)),
    ({"coordinator": "a:1", "processes": "2", "process": "0"}, {}, Place("a:1", 2, 0)),
    ({}, {"JAX_NUM_PROCESSES": "1"}, None),
    ({}, {"JAX_COORDINATOR_IP": "a", "JAX_COORDINATOR_PORT": "9", "NNODES": "2", "NODE_RANK": "1"},
     Place("a:9", 2, 1)),
    ({}, {"NNODES": "2", "NODE_RANK": "1"}, None),  # some other launcher's
    ({}, {**POD, "JAX_COORDINATOR_ADDRESS": "a:9", "JAX_NUM_PROCESSES": "2"}, Place("a:9", 2, 1)),
    ({}, SLURM, Place("gpu-007:62344", 4, 3)),
    ({}, {**SLURM, "JAX_COORDINATOR_PORT": "77"}, Place("gpu-007:77", 4, 3)),
    ({}, {**SLURM, "JAX_COORDINATOR_ADDRESS": "x:1"}, Place("x:1", 4, 3)),
    ({}, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
    # a task for each GPU of a node that sees them all; and one that sees its own only
    ({}, {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "2"},
     Place("gpu-007:62344", 4, 3, (2,))),
    ({}, {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "2"},
     Place("gpu-007:62344", 4, 3)),
    ({}, {"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, Place()),
    ({}, {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "JAX_PLATFORMS": "cpu"}, None),
    ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({}, {**POD, "TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({}, {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "4"}, Place()),
])
def test_a_place_is_found(told, environment, place):
    assert find(told, environment) == place


@pytest.mark.parametrize(("told", "environment", "words"), [
    ({}, {"JAX_COORDINATOR_ADDRESS": "a:1"}, "--processes (or JAX_NUM_PROCESSES) and --process"),
    ({"process": "0"}, {}, "--process=0 states a part"),
    ({}, {"JAX_NUM_PROCESSES": "2"}, "leave out JAX_NUM_PROCESSES to train on this host alone"),
    ({}, {**STATED, "JAX_PROCESS_ID": "4"}, "numbered 0 to 3"),
    ({}, {**STATED, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1' is no whole number from 0"),
    ({"processes": "two"}, STATED, "--processes='two' is no whole number from 1"),
    ({"coordinator": "a"}, STATED, "wants HOST:PORT"),
    ({"coordinator": "a:70000"}, STATED, "port from 1 to 65535"),
    ({}, POD, "JAX_NUM_PROCESSES=1 for pods that run alone"),
    ({}, {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID, SLURM_LOCALID is not set"),
])
def test_what_cannot_be_is_refused(told, environment, words):
    with pytest.raises(UserError) as caught:
        find(told, environment)
    assert words in str(caught.value)


@pytest.mark.parametrize(("nodes", "first"), [
    ("node001", "node001"), ("node001,host2", "node001"), ("node[001-015],host2", "node001"),
    ("node-a[001,007-015]", "node-a001"),
])
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert cluster._first_host(nodes) == first


@pytest.mark.parametrize(("attributes", "place"), [
    ({"worker-network-endpoints": "u:1:10.0.0.1,u:2:10.0.0.2"}, Place()),
    ({"worker-network-endpoints": "10.0.0.1"}, None),
    ({"worker-network-endpoints": "10.0.0.1", "tpu-env": "A: '1'\nMEGASCALE_NUM_SLICES: '2'\n"},
     Place()),
    ({}, None),
])
def test_a_tpu_vm_asks_the_metadata_server(monkeypatch, attributes, place):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = attributes.get(self.path.rpartition("/")[2])
            asks = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if value and asks else 404)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *arguments):
            pass

    monkeypatch.setattr(cluster, "_on_tpu_vm", lambda environment: True)
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = find({}, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"})
        server.shutdown()
    assert found == place
