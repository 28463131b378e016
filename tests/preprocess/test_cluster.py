"""A cluster of several nodes on this machine: one is killed in the middle, and the store is that of
a serial run.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.preprocess.conftest import Configure, tree, wait_until
from tests.preprocess.drivers import start
from tests.preprocess.test_faults import cmdline
from tests.preprocess.test_isolation import ROGUE

WORKERS = 3


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without a CPU and three nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    # Where Ray was never started there is no token: a driver makes one, `Cluster` waits for a
    # server that died of it.
    ray = Path(sys.executable).with_name("ray")
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    state = random.getstate()  # Ray names things with the global generator that the suite guards
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(WORKERS):
        cluster.add_node(num_cpus=1)
    random.setstate(state)
    yield cluster
    cluster.shutdown()
    random.setstate(state)


def making_a_shard(node: Any) -> bool:
    """Whether a worker of the node is at work now."""
    (raylet,) = node.all_processes["raylet"]
    return any(
        "_make_shard" in " ".join(cmdline(p)) for p in psutil.Process(raylet.process.pid).children()
    )


@pytest.mark.slow
def test_a_node_that_dies_costs_nothing_but_time(
    cluster: Any, configure: Configure, reference: dict[str, bytes]
) -> None:
    config = configure(executor="ray", workers=WORKERS, address=cluster.address)
    driver = start(config, decoder=ROGUE)
    busy: list[Any] = []

    def one_is_done_and_all_are_busy() -> bool:
        busy[:] = [node for node in cluster.worker_nodes if making_a_shard(node)]
        return len(busy) == WORKERS and bool(list(config.store.glob("records/*.json")))

    wait_until(one_is_done_and_all_are_busy)
    cluster.remove_node(busy[0], allow_graceful=False)
    done = len(list(config.store.glob("records/*.json")))
    driver.join()
    assert done < 6 and driver.exitcode == 0
    assert tree(config.store) == reference
