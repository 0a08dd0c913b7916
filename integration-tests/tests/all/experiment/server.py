"""A connector's server: netunicorn's own REST server, over an infrastructure of processes on this host.

It is told its folder. In it stand `calls`, a line a request, and what makes it fail: while `refuse` is there it does not
deploy; the first deployment after there is a `break` breaks off; while `slow` is there it takes long to say its nodes.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import types
import typing

import typing_extensions

# The server was written for Python 3.12, whose own class it may name.
typing.TypedDict = typing_extensions.TypedDict

from netunicorn.base.nodes import Architecture, CountableNodePool, Node, UncountableNodePool
from returns.result import Failure, Success

FOLDER = sys.argv[1]


def path(*names):
    return os.path.join(FOLDER, *names)


class Infrastructure:
    def __init__(self, **_):
        import logging

        self.logger = logging.getLogger("connector")
        self.gateway = None
        self.processes = {}

    def note(self, what, **more):
        with open(path("calls"), "a") as file:
            file.write(json.dumps({"what": what, **more}) + "\n")

    async def initialize(self, netunicorn_gateway, **more):
        self.note("initialize", **more)
        self.gateway = netunicorn_gateway
        with open(path("gateway"), "w") as file:
            file.write(netunicorn_gateway)

    async def health(self):
        return self.gateway is not None, "processes of this host"

    async def shutdown(self):
        pass

    async def get_nodes(self, username, authentication_context):
        self.note("nodes", user=username, authentication=authentication_context)
        if os.path.exists(path("slow")):
            await asyncio.sleep(10)

        def node(name, **properties):
            return Node(name, {"netunicorn-environments": ["ShellExecution"], **properties}, Architecture.LINUX_AMD64)

        lab = [node("lab-1"), node("lab-2"), node("lab-3", **{"netunicorn-access-tags": ["others"]})]
        return CountableNodePool([CountableNodePool(lab), UncountableNodePool([node("cloud-")])])

    async def deploy(self, username, experiment_id, deployments, deployment_context, authentication_context):
        self.note("deploy", context=deployment_context, authentication=authentication_context)
        if os.path.exists(path("break")):
            os.remove(path("break"))
            raise RuntimeError("it breaks off")
        if os.path.exists(path("refuse")):
            return {deployment.executor_id: Failure("there is no room") for deployment in deployments}
        for deployment in deployments:
            os.makedirs(path(deployment.executor_id))
        return {deployment.executor_id: Success(None) for deployment in deployments}

    async def execute(self, username, experiment_id, deployments, execution_context, authentication_context):
        self.note("execute", context=execution_context)
        for it in deployments:
            variables = it.environment_definition.runtime_context.environment_variables
            with open(path(it.executor_id, "printed"), "w") as printed:
                self.processes[it.executor_id] = subprocess.Popen(
                    [sys.executable, "-m", "netunicorn.executor"],
                    cwd=path(it.executor_id),
                    env={**os.environ, **variables, "NETUNICORN_GATEWAY_ENDPOINT": self.gateway},
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                )
        return {it.executor_id: Success(None) for it in deployments}

    async def stop_executors(self, username, requests_list, cancellation_context, authentication_context):
        self.note("stop", context=cancellation_context, nodes=[it["node_name"] for it in requests_list])
        for it in requests_list:
            process = self.processes.get(it["executor_id"])
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return {it["executor_id"]: Success(None) for it in requests_list}

    async def cleanup(self, experiment_id, deployments):
        self.note("cleanup", nodes=sorted(it.node.name for it in deployments))
        for it in deployments:
            shutil.rmtree(path(it.executor_id), ignore_errors=True)


# The server is published with an infrastructure of containers in its place.
package = "netunicorn.director.infrastructure.connectors.containernet"
place = types.ModuleType(f"{package}.connector")
place.ContainernetConnector = Infrastructure
sys.modules[place.__name__] = place

import uvicorn
from netunicorn.director.infrastructure.connectors.containernet.rest import app

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
