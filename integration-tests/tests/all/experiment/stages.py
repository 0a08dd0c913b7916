"""Stages, parallel ones among them, on five nodes: what tasks see and give."""

from netunicorn.base import Task, TaskDispatcher

import lab
from tasks import Value


class Seen(Task):
    """What a task finds in its environment, and what ran before it."""

    def run(self):
        import os

        here = [os.environ[name] for name in ("COLOUR", "EMPTY")]
        return here, sorted(self.previous_steps)


class Where(TaskDispatcher):
    """A task of its own for each node."""

    def dispatch(self, node):
        return Value("where", node.name)


def stages(_):
    parallel = [Value("bytes", b"\x00\xff"), Value("nested", {"list": [1, 2.5, None, True]}), Where(name="where")]
    variables = {"COLOUR": "blue=green", "EMPTY": ""}
    return lab.pipeline(Value("text", "Grüße ☃"), parallel, Seen(name="seen"), variables=variables)


lab.client.healthcheck()
lab.say(lab.told(lab.run("stages", lab.each(stages, 5))))
