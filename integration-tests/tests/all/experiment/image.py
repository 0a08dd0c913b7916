"""An image that is built from commands, on as many nodes as are named: `run NAME COMMAND NODES…`, to the end."""

import lab
from netunicorn.base.environment_definitions import BuildContext, DockerImage
from tasks import Read

NAME, command, *nodes = lab.arguments


def within():
    definition = DockerImage(commands=[command], build_context=BuildContext(python_version="3.11.2"))
    return lab.Pipeline(environment_definition=definition).then(Read("/made"))


experiment = lab.Experiment()
for node in lab.client.get_nodes().take(10):
    if node.name in nodes:
        experiment.append(node, within())
ready = lab.prepare(NAME, experiment)
if ready.status == lab.ExperimentStatus.READY:
    lab.client.start_execution(NAME)
    lab.say(lab.told(lab.finish(NAME)))
else:
    lab.say({"status": ready.status.name, "errors": [str(it.error) for it in ready.experiment or []]})
