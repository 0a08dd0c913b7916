#!/usr/bin/env python3
"""Runs a pipeline on two nodes with netunicorn's own client, which knows nothing of Muster.

    python3 -m venv venv && venv/bin/pip install netunicorn-client==0.4.0
    muster user create ada --role operator --password-file ada.password
    venv/bin/python deploy/examples/experiments/hello.py http://127.0.0.1:8080/netunicorn ada ada.password
"""

import sys
import time

from netunicorn.base import Experiment, ExperimentStatus, Pipeline, Task
from netunicorn.base.environment_definitions import ShellExecution
from netunicorn.client.remote import RemoteClient


class Greet(Task):
    """Runs on a node. Its class travels with the pipeline."""

    def __init__(self, whom: str):
        super().__init__(name=f"greet {whom}")
        self.whom = whom

    def run(self) -> str:
        import platform

        return f"Hello, {self.whom}, from Python {platform.python_version()}"


def wait(client: RemoteClient, name: str, while_it_is: ExperimentStatus):
    """Waits for the end of a state."""
    while (info := client.get_experiment_status(name)).status == while_it_is:
        time.sleep(0.2)
    return info


def main(url: str, user: str, password_file: str) -> int:
    with open(password_file, encoding="utf-8") as file:
        client = RemoteClient(url, user, file.read().rstrip("\n"))
    nodes = client.get_nodes().take(2)
    # Tasks of one stage run at the same time; a stage begins when the one before has ended.
    pipeline = Pipeline(environment_definition=ShellExecution()).then(Greet("world")).then([Greet("Ada"), Greet("Bob")])
    name = f"hello-{int(time.time())}"
    client.prepare_experiment(Experiment().map(pipeline, nodes), name)
    info = wait(client, name, ExperimentStatus.PREPARING)
    if info.status != ExperimentStatus.READY:
        print(f"{name} is {info.status.name}: {info.execution_result}", file=sys.stderr)
        return 1
    client.start_execution(name)
    info = wait(client, name, ExperimentStatus.RUNNING)
    for node in info.execution_result:
        if node.error:
            print(f"{node.node.name}: {node.error}", file=sys.stderr)
            return 1
        results, log = node.result
        if results is None:
            print(f"{node.node.name}: {''.join(log)}", file=sys.stderr)
            return 1
        for task, values in results.unwrap().items():
            print(f"{node.node.name}  {task}  {values[0].unwrap()}")
    client.delete_experiment(name)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"Usage: {sys.argv[0]} URL USER PASSWORD-FILE")
    sys.exit(main(*sys.argv[1:]))
