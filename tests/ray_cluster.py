"""A Ray cluster of two machines on this one: `python tests/ray_cluster.py`.

It prints its address. A line `kill` on its stdin loses the second machine, all of it at once; it
answers `killed`. The cluster ends when its stdin does. Its Jobs API is at `RAY_DASHBOARD_PORT`.
"""

from __future__ import annotations

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

_STORE_BYTES = 80 * 1024 * 1024


def main() -> None:
    head = {"num_cpus": 2, "object_store_memory": _STORE_BYTES}
    head |= {"include_dashboard": True, "dashboard_port": int(os.environ["RAY_DASHBOARD_PORT"])}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
    cluster.wait_for_nodes()
    _tell(cluster.address)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
            _tell("killed")
    cluster.shutdown()


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
