"""Populations trained by workers of Ray, on this machine or on a cluster: what `search.py --ray` adds."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

import naivenas_jax as nas

#: From a population, what the step before has returned (None at first) and the number of the epoch to what comes of it.
Step = Callable[[nas.Population, Any, int], Any]
#: From populations and a number of epochs to what the last step of each has returned.
Trainer = Callable[[Sequence[nas.Population], int], Iterator[Any]]

#: Ray reads these when it is imported. Without the first it listens on every network of the machine.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
LOOPBACK = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "log_to_driver": False}


@contextmanager
def on_ray(step: Step, address: str = "local", **options: Any) -> Iterator[Trainer]:
    """Workers that take the steps of a training, as a function in place of `in_process`.

    By default Ray is started here, listens on the loopback alone, and is stopped in the end. With the address of a
    cluster (``auto``, ``HOST:PORT``) its machines work, and it goes on running.

    A worker keeps nothing but compiled programs. What a step returns is stored by Ray, and the step of a worker that is
    killed is taken again by the one that comes in its place, so nothing else is lost.
    """
    if address == "local":
        if "ray" in sys.modules and not ALONE.items() <= os.environ.items():
            raise RuntimeError(f"Ray was imported before this, and would listen on every network. First set {ALONE}.")
        os.environ.update(ALONE)
    import ray

    if address == "local":
        ray.init(address="local", **LOOPBACK, **options)
    else:
        ray.init(address=address, runtime_env={"working_dir": str(Path(__file__).parent)}, **options)
    try:
        worker = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1)(_Worker)
        workers = [worker.remote(step) for _ in range(int(ray.cluster_resources()["CPU"]))]

        def train(populations: Sequence[nas.Population], epochs: int) -> Iterator[Any]:
            carries = []
            for number, population in enumerate(populations):
                own, stored, carry = workers[number % len(workers)], ray.put(jax.device_get(population)), None
                for epoch in range(epochs):
                    carry = own.step.remote(stored, carry, epoch)
                carries.append(carry)
            return map(ray.get, carries)

        yield train
    finally:
        ray.shutdown()


class _Worker:
    """All steps of a population go to one worker, so that it is compiled once."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def step(self, population: nas.Population, carry: Any, epoch: int) -> Any:
        return self._step(population, carry, epoch)
