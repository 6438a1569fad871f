"""Ray, the real one, as two machines on this one: each task is settled once, whatever dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from sau_cli.errors import UsageError
from sau_cli.fleet.engine import GIB, Needs, Settled, Task
from sau_cli.fleet.ray_cluster import LEAST_HELD
from tests.conftest import ROOT
from tests.unit.fleet import work

if find_spec("ray") is None:
    pytest.skip("needs Ray", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,  # two machines start in half a minute, or in two on a busy one
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one CPU."""
    before = os.environ.get("PYTHONPATH")
    os.environ |= {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}",
        **SETTINGS,
    }
    from ray.cluster_utils import Cluster  # reads the environment as it is imported

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "memory": 4 * GIB})
    made.add_node(num_cpus=1, memory=2 * GIB)
    yield made
    made.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def settled(cluster, tasks: list[Task], *, watch=None) -> dict[int, tuple[bytes | None, str]]:
    from sau_cli.fleet.ray_cluster import RayCluster

    found = []
    with RayCluster(cluster.address) as ray:
        for settled_task in ray.run(tasks):
            found.append(settled_task)
            if watch:
                watch(len(found))
    assert sorted(settled_task.number for settled_task in found) == [task.number for task in tasks]
    return {settled_task.number: (settled_task.answer, settled_task.ended) for settled_task in found}


def away_from_the_code(folder: Path, monkeypatch) -> None:
    """In a working folder where no code of the driver's lies, as of a user who has sau installed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in {"", str(folder)}])


def tasks(*pieces) -> list[Task]:
    return [Task(number=number, work=piece) for number, piece in enumerate(pieces)]


def test_what_fails_or_dies_ends_alone_and_what_died_once_is_done_again(cluster, tmp_path, capsys):
    found = settled(
        cluster,
        tasks(
            partial(work.says, "a"),
            work.fails,
            work.dies,
            partial(work.dies_once, tmp_path / "mark"),
            work.wants_more,
            partial(work.says, "b"),
        ),
    )
    assert found[0] == (b"a", "")
    assert found[1] == (None, "it cannot be done")
    assert found[2][0] is None
    assert "was ended 3 times" in found[2][1]
    assert found[3] == (b"lived", "")
    assert found[4] == (b"too little", "")
    assert found[5] == (b"b", "")
    assert "raylet" not in "".join(capsys.readouterr())


def test_what_ran_out_of_memory_is_sent_again_with_more(cluster, tmp_path):
    found = settled(cluster, tasks(partial(work.needs_tries, tmp_path / "tries", 3)))
    assert found == {0: (b"enough", "")}
    found = settled(cluster, [Task(number=0, work=work.wants_more, needs=Needs(memory=100 * GIB))])
    assert found == {0: (b"too little", "")}  # of a machine's whole memory, and not for ever in the queue


def test_a_machine_that_dies_loses_nothing_and_repeats_nothing_that_was_done(cluster, tmp_path):
    node = cluster.add_node(num_cpus=2, memory=2 * GIB)
    done = tmp_path / "done"
    done.mkdir()
    pieces = [partial(work.marks, done, number, 0.05) for number in range(60)]
    counted: dict[str, int] = {}

    def kill(so_far: int) -> None:
        if so_far == 20:
            counted.update({path.name: len(path.read_text()) for path in done.iterdir()})
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    found = settled(cluster, tasks(*pieces), watch=kill)
    assert {answer for answer, _ in found.values()} == {str(number).encode() for number in range(60)}
    times = [len(path.read_text()) for path in done.iterdir()]
    assert len(times) == 60
    assert sum(times) - 60 <= 4  # those that were under way on the machine


@contextmanager
def another_sau(cluster, folder: Path, **has):
    """A machine of the cluster whose processes find an older sau first."""
    package = folder / "other" / "sau_cli"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('__version__ = "0.0.1"\n')
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = str(package.parent)
    node = cluster.add_node(num_cpus=1, memory=2 * GIB, **has)
    os.environ["PYTHONPATH"] = before
    yield node
    cluster.remove_node(node)


def test_a_machine_with_another_sau_is_named_and_gets_no_task_once_that_is_known(cluster, tmp_path, monkeypatch):
    from sau_cli.fleet.ray_cluster import RayCluster

    away_from_the_code(tmp_path, monkeypatch)
    pieces = tasks(*(partial(work.slow, str(number)) for number in range(100)))
    sent_there = 0
    with another_sau(cluster, tmp_path) as node, RayCluster(cluster.address) as ray:
        became = ray._became

        def watched(reference, one):
            nonlocal sent_there
            known, outcome = bool(ray.remarks), became(reference, one)
            sent_there += known and not isinstance(outcome, Settled)
            return outcome

        monkeypatch.setattr(ray, "_became", watched)
        found = list(ray.run(pieces))
        assert list(ray.remarks) == [node.node_id]
        assert "gets no tasks; install the same" in ray.remarks[node.node_id]
    assert {settled_task.number: settled_task.answer for settled_task in found} == {
        number: str(number).encode() for number in range(100)
    }
    assert sent_there < LEAST_HELD  # which were on their way


def test_where_no_machine_has_the_same_sau_each_task_says_so(cluster, tmp_path, monkeypatch):
    from sau_cli.fleet.ray_cluster import RayCluster

    away_from_the_code(tmp_path, monkeypatch)
    monkeypatch.setattr("sau_cli.fleet.ray_cluster.surroundings", lambda: {"sau": "9.9.9"})
    with RayCluster(cluster.address) as ray:
        found = list(ray.run(tasks(*(partial(work.slow, str(number)) for number in range(6)))))
    assert sorted(settled_task.number for settled_task in found) == list(range(6))
    assert all(
        settled_task.answer is None and "(sau is 0" in settled_task.ended and "9.9.9 here)" in settled_task.ended
        for settled_task in found
    )


def test_what_only_a_machine_that_died_had_room_for_is_done_with_less(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, memory=16 * GIB)
    large = Needs(memory=12 * GIB)
    pieces = [Task(number=number, work=partial(work.marks, tmp_path, number, 3.0), needs=large) for number in range(3)]

    def kill() -> None:
        while not any(tmp_path.iterdir()):
            time.sleep(0.1)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = settled(cluster, pieces)
    thread.join()
    assert {answer for answer, _ in found.values()} == {b"0", b"1", b"2"}


def test_nothing_that_lies_in_the_working_folder_is_run(cluster, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("")
    away_from_the_code(tmp_path, monkeypatch)
    assert settled(cluster, tasks(partial(work.finds, "planted"))) == {0: (b"no", "")}


def test_an_address_where_something_else_answers():
    from sau_cli.fleet.ray_cluster import RayCluster

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match="is no Ray"):
            RayCluster(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_cluster_that_asks_for_a_token(tmp_path):
    from sau_cli.fleet.ray_cluster import RayCluster

    token = tmp_path / "token"
    token.write_text("ab" * 32)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ("start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1")
    settings = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **SETTINGS}
    program = [sys.executable, "-m", "ray.scripts.scripts", *words, "--include-dashboard=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(program, env=settings, start_new_session=True, **quiet) as head:
        try:
            until = time.monotonic() + 100
            while time.monotonic() < until:
                time.sleep(1)
                with suppress(UsageError), RayCluster(f"127.0.0.1:{port}") as ray:
                    break
            with pytest.raises(UsageError, match="asks for its token; set RAY_AUTH_MODE=token"):
                list(ray.run(tasks(partial(work.says, "a"))))
        finally:
            os.killpg(head.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:9", "nobody answers at 127.0.0.1:9"), ("ray://127.0.0.1:9", "a machine of the cluster")],
)
def test_an_address_that_nobody_answers(address, said):
    from sau_cli.fleet.ray_cluster import RayCluster

    began = time.monotonic()
    with pytest.raises(UsageError, match=said):
        RayCluster(address)
    assert time.monotonic() - began < 10
