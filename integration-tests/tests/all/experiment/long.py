"""Five nodes that are busy for a while: `begin` and how long each, then `cancel` with nodes, or `end`."""

import lab
from tasks import Trace

NAME, what, *given = lab.arguments


def busy(node):
    seconds = float(given[int(node.name.removeprefix("node-")) - 1])
    return lab.pipeline(Trace(NAME, seconds))


if what in ("prepare", "begin"):
    experiment = lab.each(busy, len(given))
    for deployment in experiment:
        deployment.keep_alive_timeout_minutes = 1
    if what == "prepare":
        lab.client.prepare_experiment(experiment, NAME)
    else:
        lab.prepare(NAME, experiment)
        lab.client.start_execution(NAME)
    lab.say(what)
elif what == "start":
    lab.until(NAME, lab.ExperimentStatus.PREPARING)
    lab.client.start_execution(NAME)
    lab.say(what)
elif what == "cancel":
    deployments = lab.client.get_experiment_status(NAME).experiment
    if given:
        lab.client.cancel_executors([it.executor_id for it in deployments if it.node.name in given])
    else:
        lab.client.cancel_experiment(NAME)
    lab.say(what)
else:
    lab.say(lab.told(lab.finish(NAME)))
