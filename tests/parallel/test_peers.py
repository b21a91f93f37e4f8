"""Who belongs to a run: by variables, a fake metadata server, GKE and SLURM; what is said before
waiting, and the end of the waiting.
"""

import http.server
import subprocess
import sys
import threading

import pytest
from jax._src.clusters import cloud_tpu_cluster

from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.parallel import peers
from tests import processes

CLUSTER = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "SLURM_STEP_NUM_TASKS")
MULTISLICE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")


@pytest.fixture(autouse=True)
def tpu_vm(monkeypatch):
    """A machine with TPU chips and none of the variables."""
    for name in (*peers.VARIABLES, *CLUSTER, *MULTISLICE, "TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # jax's, between its tries


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as Google's metadata server does, from `values`; the rest is 404 with a page."""

    values: dict[str, str]

    def do_GET(self):
        name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
        known = self.headers["Metadata-Flavor"] == "Google" and name in self.values
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write((self.values[name] if known else "<html>Error 404: ...</html>").encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def metadata(monkeypatch):
    """Set the values that the fake metadata server gives."""
    handler = type("Handler", (Metadata,), {"values": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield lambda **values: handler.values.update(
            {name.replace("_", "-"): value for name, value in values.items()}
        )
        server.shutdown()


OLD = "worker-0:0:127.0.0.1,worker-1:1:10.0.0.3,worker-2:2:10.0.0.4,worker-3:3:10.0.0.5"
NEW = "localhost,host-1,host-2,host-3"


@pytest.mark.parametrize(("hosts", "first"), [(OLD, "127.0.0.1"), (NEW, "localhost")])
def test_a_slice(metadata, hosts, first):
    metadata(agent_worker_number="2", worker_network_endpoints=hosts, tpu_env="ZONE: 'z'\n")
    found = peers.find()
    assert (found.where, found.count, found.index) == ("a TPU slice", 4, 2)
    assert found.coordinator(timeout_seconds=1) == f"{first}:8482"
    assert found.devices is None and "--worker=all" in found.start_others


def test_one_host(metadata):
    metadata(agent_worker_number="0", worker_network_endpoints="localhost", tpu_env="")
    assert (peers.find().count, peers.find().index) == (1, 0)


def test_several_slices(metadata):
    tpu_env = (
        "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:8080'\n"
        "MEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
    )
    metadata(agent_worker_number="1", worker_network_endpoints=NEW, tpu_env=tpu_env)
    found = peers.find()
    assert (found.count, found.index) == (12, 9)
    assert found.coordinator(timeout_seconds=1) == "127.0.0.1:8482"


@pytest.mark.parametrize(
    "wrong",
    [
        {"worker_network_endpoints": "a:b"},
        {"worker_network_endpoints": ""},
        {"worker_network_endpoints": "host-0,,host-2"},
        {"worker_network_endpoints": "<html>moved</html>"},
        {"agent_worker_number": "first"},
        {"agent_worker_number": "4"},
        {"agent_worker_number": "-1"},
        {"tpu_env": "MEGASCALE_NUM_SLICES: 'two'\n"},
        {"tpu_env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '7'\n"},
    ],
)
def test_malformed_metadata_are_one_line(metadata, wrong):
    good = {"agent_worker_number": "0", "worker_network_endpoints": NEW, "tpu_env": ""}
    metadata(**(good | wrong))
    with pytest.raises(ConfigError, match="its list of hosts cannot be used") as error:
        peers.find()
    assert "\n" not in str(error.value) and "CLIPJAX_COORDINATOR" in str(error.value)


def test_a_worker_list_that_is_missing(metadata):
    metadata(agent_worker_number="0")
    with pytest.raises(ConfigError, match="404"):
        peers.find()


def test_no_tpu_vm(metadata):
    assert peers.find() is None  # no worker number


def test_gke(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,clipjax-slice-0-1.clipjax")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    for name, value in zip(MULTISLICE, ("localhost", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    found = peers.find()
    assert (found.where, found.count, found.index) == ("a GKE TPU slice", 4, 3)
    monkeypatch.delenv("TPU_WORKER_ID")
    with pytest.raises(ConfigError, match="GKE"):
        peers.find()


def test_slurm(monkeypatch):
    variables = {
        **{"SLURM_STEP_NUM_TASKS": "16", "SLURM_NTASKS": "16", "SLURM_PROCID": "9"},
        **{"SLURM_LOCALID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[003-004]"},
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = peers.find()
    assert (found.where, found.count, found.index, found.devices) == ("SLURM", 16, 9, [1])
    assert found.coordinator(timeout_seconds=1).startswith("node003:")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("host:1", "2", ""), "not CLIPJAX_PROCESS_ID"),
        (("host:1", "2", "2"), "the first below the second"),
        (("host:1", "two", "0"), "write numbers"),
        (("host", "2", "0"), "CLIPJAX_COORDINATOR=host: write host:port"),
    ],
)
def test_wrong_variables(monkeypatch, values, told):
    for name, value in zip(peers.VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        peers.find()


def test_variables_win(monkeypatch, metadata):
    metadata(agent_worker_number="0", worker_network_endpoints=NEW)
    for name, value in zip(peers.VARIABLES, ("host:7", "3", "1"), strict=True):
        monkeypatch.setenv(name, value)
    found = peers.find()
    assert (found.count, found.index, found.coordinator(timeout_seconds=1)) == (3, 1, "host:7")


JOIN = "from clipjax.parallel import distributed; distributed.initialize(timeout_seconds=2)"


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_host_alone_says_so_and_ends(index, monkeypatch):
    """The coordinator without its peers, and a peer without the coordinator."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    address = f"127.0.0.1:{8471 + int(index)}"
    for name, value in zip(peers.VARIABLES, (address, "3", index), strict=True):
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", JOIN], capture_output=True, text=True, timeout=processes.TIMEOUT
    )
    assert done.returncode == exits.PEER_FAILURE, done.stderr
    first, last = [line for line in done.stderr.splitlines() if line.startswith("clipjax: ")]
    assert f"process {index} of 3" in first and "waiting for the other 2, 2 s at most" in first
    assert "the other 2 did not come in 2 s" in last
    assert f"start the same command with CLIPJAX_COORDINATOR={address}" in last
