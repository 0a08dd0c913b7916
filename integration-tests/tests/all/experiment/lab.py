"""What the stories' scripts share: a client, and how what came back is printed.

Each script is called with the client's endpoint, user and password, and arguments of its own. It prints JSON, a value a
line, and a story checks it.
"""

import hashlib
import json
import os
import sys
import time

from netunicorn.base import Experiment, ExperimentStatus, Pipeline
from netunicorn.base.environment_definitions import ShellExecution
from netunicorn.client.remote import RemoteClient, RemoteClientException
from returns.pipeline import is_successful
from returns.result import Result

client = RemoteClient(*sys.argv[1:4])
arguments = sys.argv[4:]


def say(value):
    print(json.dumps(value), flush=True)


def shell(**variables):
    """An environment for tasks that leave traces."""
    definition = ShellExecution()
    definition.runtime_context.environment_variables = {"TRACES": os.environ["TRACES"], **variables}
    return definition


def pipeline(*stages, kind=Pipeline, variables=None, **how):
    it = kind(environment_definition=shell(**variables or {}), **how)
    for stage in stages:
        it.then(stage)
    return it


def each(make, count):
    """An experiment in which every node runs what is made for it."""
    experiment = Experiment()
    for node in client.get_nodes().take(count):
        experiment.append(node, make(node))
    return experiment


def until(name, *passing):
    """Waits while an experiment has one of these statuses."""
    while True:
        information = client.get_experiment_status(name)
        if information.status not in passing:
            return information
        time.sleep(0.1)


def prepare(name, experiment):
    client.prepare_experiment(experiment, name)
    return until(name, ExperimentStatus.PREPARING)


def finish(name):
    return until(name, ExperimentStatus.RUNNING)


def run(name, experiment):
    ready = prepare(name, experiment)
    if ready.status != ExperimentStatus.READY:
        raise SystemExit(f"{name} is not ready: {ready}")
    client.start_execution(name)
    return finish(name)


def refusal(action, *given):
    """What the client says where the server does not do what it is asked for."""
    try:
        action(*given)
    except RemoteClientException as refused:
        return str(refused)
    raise SystemExit(f"{given} was not refused")


def shown(result):
    """A task's result in a text."""
    value = result.unwrap() if is_successful(result) else result.failure()
    if isinstance(value, bytes) and len(value) > 100:
        value = hashlib.sha256(value).hexdigest()
    return f"{type(result).__name__} {value!r}"


def told(information):
    """What a client knows of an experiment, by the place of each deployment."""
    results = information.execution_result
    if not isinstance(results, list):
        return {"status": information.status.name, "result": None if results is None else str(results)}

    def one(it):
        outcome, log = it.result or (None, [])
        tasks = {}
        if isinstance(outcome, Result):
            tasks = outcome.unwrap() if is_successful(outcome) else outcome.failure()
        return {
            "node": it.node.name,
            "error": it.error,
            "outcome": None if outcome is None else type(outcome).__name__,
            "tasks": {name: [shown(result) for result in of_it] for name, of_it in tasks.items()},
            "log": "".join(log),
        }

    return {"status": information.status.name, "result": [one(it) for it in results]}
