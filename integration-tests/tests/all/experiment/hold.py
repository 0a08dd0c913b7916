"""Holds a node: an experiment on it is prepared, and that is all."""

from netunicorn.base import Experiment
from netunicorn.base.nodes import Node

import lab
from tasks import Value

(name,) = lab.arguments
held = lab.prepare("held", Experiment().append(Node(name=name, properties={}), lab.pipeline(Value("one", 1))))
lab.say(held.status.name)
