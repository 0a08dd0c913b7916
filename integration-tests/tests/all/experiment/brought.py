"""Experiments on nodes that a connector brings."""

from netunicorn.base import Experiment

import lab
from tasks import Trace, Value

part = lab.arguments[0]
context = {"lab": {"badge": "ä-1"}, "other": {"badge": "2"}}


def nodes():
    """The nodes of each connector, and what its templates would make."""
    found = {}
    for pool in lab.client.get_nodes():
        for node in pool.take(4):
            found.setdefault(node["connector"], []).append(node)
    return found


def names():
    return {connector: [node.name for node in found] for connector, found in nodes().items()}


if part == "nodes":
    lab.say(names())
elif part == "run":
    experiment = Experiment()
    found = nodes()
    for node in found["lab"][:3] + found["muster"][:1]:
        experiment.append(node, lab.pipeline(Trace("ran"), Value("where", node.name)))
    lab.client.authentication_context = context
    lab.client.prepare_experiment(experiment, "brought", {"lab": {"room": "7"}})
    lab.until("brought", lab.ExperimentStatus.PREPARING)
    lab.client.start_execution("brought", {"lab": {"fast": "yes"}})
    lab.say(lab.told(lab.finish("brought")))
elif part == "refused":
    experiment = Experiment()
    experiment.append(nodes()["lab"][0], lab.pipeline(Value("one", 1)))
    lab.say(str(lab.prepare("refused", experiment).execution_result))
elif part == "cancel":
    experiment = Experiment()
    for node in nodes()["lab"][:2]:
        experiment.append(node, lab.pipeline(Trace("long", seconds=600)))
    ready = lab.prepare("long", experiment)
    lab.client.start_execution("long")
    lab.say([it.executor_id for it in ready.experiment.deployment_map])
    lab.say(lab.told(lab.finish("long")))
