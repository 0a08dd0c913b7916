"""Executors that end in every way there is."""

from netunicorn.base import Experiment, Task
from netunicorn.base.pipeline import CyclePipeline

import lab
from tasks import Trace, Value


class Fail(Task):
    def run(self):
        raise ValueError("it is broken")


class Die(Task):
    def run(self):
        import os

        os._exit(7)


class Unpicklable(Task):
    def run(self):
        import threading

        return threading.Lock()


one, two, three, four, five = lab.client.get_nodes().take(5)
experiment = Experiment()
after = Value("after", 1)
experiment.append(one, lab.pipeline(Fail(name="fail"), after))
experiment.append(one, lab.pipeline(Fail(name="fail"), after, early_stopping=False))
experiment.append(two, lab.pipeline(Die(name="die"), after))
experiment.append(three, lab.pipeline(Unpicklable(name="unpicklable"), after))
experiment.append(four, lab.pipeline(Trace("cycle"), kind=CyclePipeline, cycles=3))
experiment.append(five, lab.pipeline(Trace("silent"), report_results=False))
lab.say(lab.told(lab.run("endings", experiment)))
