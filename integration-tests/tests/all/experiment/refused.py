"""What is asked for and cannot be: refused in a sentence, and nothing of it is there."""

import copy
import json

import requests
from netunicorn.base import Experiment
from netunicorn.base.environment_definitions import DockerImage
from netunicorn.base.nodes import Node
from netunicorn.base.utils import UnicornEncoder

import lab
from tasks import Value

pipeline = lab.pipeline(Value("one", 1))
docker = copy.copy(pipeline)
docker.environment_definition = DockerImage(image="alpine")


def by_hand(name, what=pipeline, **properties):
    """An experiment on a node that is in no list."""
    return Experiment().append(Node(name=name, properties=properties), what)


def state():
    return {name: lab.told(it) for name, it in lab.client.get_experiments().items()}


def asked(change):
    """What comes of an order that no client makes."""
    order = json.loads(json.dumps(by_hand("node-1"), cls=UnicornEncoder))
    order["deployment_map"].append(copy.deepcopy(order["deployment_map"][0]))
    change(order["deployment_map"])
    url = f"{lab.client.endpoint}/api/v1/experiment/refused/prepare"
    answer = requests.post(url, json=order, headers={"Authorization": f"Bearer {lab.client._session_token}"})
    return [answer.status_code, answer.text]


def set_in(*path):
    """Sets something of the second deployment; the last of the path is the value."""

    def change(deployments):
        place = deployments[1]
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return asked(change)


def same_ids(deployments):
    for deployment in deployments:
        deployment["executor_id"] = "twice"


lab.say(lab.told(lab.run("by-hand", by_hand("node-1"))))
before = state()
prepare = lab.client.prepare_experiment
runtime = ("environment_definition", "runtime_context")
refused = {
    "docker": lab.refusal(prepare, by_hand("node-1", docker), "refused"),
    "hidden": lab.refusal(prepare, by_hand("node-3"), "refused"),
    "locked": lab.refusal(prepare, by_hand("node-2"), "refused"),
    "unknown": lab.refusal(prepare, by_hand("no/such/nœud ☃"), "refused"),
    "connector": lab.refusal(prepare, by_hand("node-1", connector="elsewhere"), "refused"),
    "taken name": lab.refusal(prepare, by_hand("node-1", lab.pipeline(Value("two", 2))), "by-hand"),
    "graph": set_in("execution_graph", "not base64!"),
    "same ids": asked(same_ids),
    "variable": set_in(*runtime, "environment_variables", {"A B": "c"}),
    "value": set_in(*runtime, "environment_variables", {"A": "b c"}),
    "arguments": set_in(*runtime, "additional_arguments", ["--privileged"]),
    "node": set_in("node", "name", ""),
    "no nodes": asked(lambda deployments: deployments.clear()),
}
lab.say(refused)
lab.say(state() == before and "node-1" in [node.name for node in lab.client.get_nodes().take(1)])
