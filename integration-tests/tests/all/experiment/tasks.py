"""Tasks of the stories. They travel with their code."""

import sys

import cloudpickle
from netunicorn.base import Task

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Value(Task):
    """Gives a value."""

    def __init__(self, name, value):
        self.value = value
        super().__init__(name=name)

    def run(self):
        return self.value


class Trace(Task):
    """Leaves a line in the file of a name, then takes its time."""

    def __init__(self, trace, seconds=0.0):
        self.trace, self.seconds = trace, seconds
        super().__init__(name=trace)

    def run(self):
        import os
        import time

        with open(os.path.join(os.environ["TRACES"], self.trace), "a") as file:
            file.write(os.environ["NETUNICORN_EXECUTOR_ID"] + "\n")
        time.sleep(self.seconds)
        return "done"


class Read(Task):
    """Gives what a file holds."""

    def __init__(self, path):
        self.path = path
        super().__init__(name="read")

    def run(self):
        with open(self.path) as file:
            return file.read()


class Gate(Task):
    """Waits until the file of a name is there."""

    def __init__(self, gate):
        self.gate = gate
        super().__init__(name=gate)

    def run(self):
        import os
        import time

        while not os.path.exists(os.path.join(os.environ["TRACES"], self.gate)):
            time.sleep(0.05)
