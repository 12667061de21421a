"""What is checked of a cluster before it works; the cluster itself is in tests/e2e/test_stage_cluster.py."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from groundsegment.errors import GroundError, InputError, LinkError
from groundsegment.packer import cluster
from groundsegment.packer.cluster import cluster_workers
from groundsegment.packer.plan import coder_versions


class FakeClient:
    """A cluster of threads."""

    def __init__(self, num_threads=2):
        self.num_threads, self.is_closed = num_threads, False

    def nthreads(self):
        return {f"tcp://worker-{number}": 1 for number in range(self.num_threads)}

    def get_executor(self, **_):
        return ThreadPoolExecutor(max(1, self.num_threads))

    def run(self, function, *arguments):
        return {worker: function(*arguments) for worker in self.nthreads()}

    def close(self):
        self.is_closed = True


@pytest.fixture
def client(monkeypatch):
    pytest.importorskip("distributed")
    made = FakeClient()
    monkeypatch.setattr(cluster, "_connect", lambda address: made)
    return made


def test_workers_are_as_many_as_the_cluster_has_threads_and_let_go_at_the_end(client, tmp_path):
    (tmp_path / "weights").write_bytes(b"12345")
    with cluster_workers("dask://host:8786") as workers:
        assert workers.count == 2
        with workers.started(5, [tmp_path / "weights"]) as executor:
            assert executor.submit(abs, -1).result() == 1
    assert client.is_closed


def test_a_file_that_a_worker_sees_otherwise_is_told_before_anything_is_encoded(client, tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"12345")
    monkeypatch.setattr(cluster, "_sizes", lambda files: {str(path): 6 for path in files})
    with (
        cluster_workers("tcp://host:8786") as workers,
        pytest.raises(InputError, match=r"has 5 bytes on .* 6 here") as caught,
        workers.started(5, [tmp_path / "weights"]),
    ):
        pass
    assert "same path on every machine" in caught.value.hint


def test_what_a_worker_would_do_differently():
    versions = coder_versions()
    assert cluster._troubles({}, versions) == []
    assert "nowhere/weights cannot be read on" in cluster._troubles({"/nowhere/weights": 5}, versions)[0]
    assert f"numpy is {versions['numpy']} on" in cluster._troubles({}, {**versions, "numpy": "1.0"})[0]


def test_a_worker_that_cannot_run_skyload_is_told(client, monkeypatch):
    def run(function, *arguments):
        raise ModuleNotFoundError("No module named 'groundsegment'")

    monkeypatch.setattr(client, "run", run)
    with cluster_workers("tcp://host:8786") as workers, pytest.raises(InputError, match="groundsegment") as caught:
        workers.check([])
    assert "install the same skyload" in caught.value.hint


def test_a_cluster_without_workers_or_that_is_lost_is_told(client):
    from distributed.comm import CommClosedError

    with pytest.raises(GroundError, match="lost our work") as caught, cluster_workers("tcp://host:8786"):
        raise CommClosedError("gone")
    assert "goes on where it was" in caught.value.hint
    client.num_threads = 0
    with pytest.raises(LinkError, match="no workers"), cluster_workers("tcp://host:8786"):
        pass


@pytest.mark.parametrize("url", ["host:8786", "http://host:8786", "tcp://", "", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="is not an address"), cluster_workers(url):
        pass


def test_without_dask_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="not installed") as caught, cluster_workers("tcp://host:8786"):
        pass
    assert "skyload[dask]" in caught.value.hint
