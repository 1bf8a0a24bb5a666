"""Workers of Ray train what one process does, whoever is killed, and nobody outside of the machine can reach them."""

import importlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import naivenas_jax as nas

pytest.importorskip("pymoo")
EXAMPLES = Path(__file__).parents[2] / "examples"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
pytestmark = [
    # Looked for and not imported: the example sets first what Ray reads when it is imported.
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra search"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of whatever version
]


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))
        yield importlib.import_module("search")


def descendants(root):
    """The processes that a process has started, and those that these have."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def listening(pids):
    """The addresses that processes listen at, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        try:
            inodes |= {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


@pytest.fixture(scope="module")
def populations(example):
    graph = example.seed_network()
    variables = graph.init(jax.random.key(0), example.digits()[0][:1])
    widths = [nas.delta_nout(graph, variables, {"hidden": nas.to(n)}) for n in (12, 8)]
    return [nas.Population.of(widths), nas.Population.of(widths[::-1])]


def test_a_killed_worker_loses_its_step_alone_and_nobody_outside_can_connect(example, populations, tmp_path):
    train_epoch, folder = example.train_epoch, str(tmp_path)

    def step(population, carry, epoch):
        """Says which steps begin; the first that is the second of its population kills its worker."""
        own = str(population.masks["hidden"].sum(1).tolist())
        done = train_epoch(population, carry, epoch)
        with open(f"{folder}/steps", "a") as file:
            file.write(f"{own} {epoch}\n")
        if epoch == 1 and not os.path.exists(f"{folder}/killed"):
            Path(folder, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    with example.on_ray(step, num_cpus=2) as train:
        found = list(train(populations, 3))
        processes = descendants(os.getpid())
        addresses = listening(processes)
    assert addresses
    assert addresses <= LOOPBACK
    assert not {pid for pid in processes if Path(f"/proc/{pid}/exe").exists() and b"ray" in command(pid)}
    for one, alone in zip(found, example.in_process(populations, 3), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, alone)
    steps = (tmp_path / "steps").read_text().splitlines()
    again = [step for step in set(steps) if steps.count(step) == 2]
    assert len(steps) == 7
    assert len(set(steps)) == 6
    assert again[0].endswith(" 1")


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_killed_driver_goes_on_from_the_last_generation(example, tmp_path):
    stored = tmp_path / "search.pickle"
    line = [sys.executable, EXAMPLES / "search.py", "--quick", "--objectives", "error", "parameters"]
    line += ["--ray", "--keep", tmp_path]
    driver = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        wait(stored.exists, 240)
        started = descendants(driver.pid)
    finally:
        driver.kill()
        driver.wait()
    _, first = pickle.loads(stored.read_bytes())
    assert first.generation == 1
    assert started
    # What works is gone at once; two agents of Ray wait for a minute before they see that nobody is left.
    wait(lambda: not any(name in command(pid) for pid in started for name in (b"gcs_", b"/raylet", b"_Worker")), 30)
    again = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "1 generations are done" in again.stdout
    assert "generation 1:" not in again.stdout
    settings, last = pickle.loads(stored.read_bytes())
    *_, alone = example.search(settings)
    assert last.generation == 2
    assert [(each.graph, each.goals) for each in last.seen] == [(each.graph, each.goals) for each in alone.seen]


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
