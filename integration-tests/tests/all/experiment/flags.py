"""Nodes that meet at flags, which the researcher sets and reads as well."""

from netunicorn.base import Task
from netunicorn.base.types import FlagValues
from netunicorn.library.tasks.flags import AtomicIncrementFlagTask, GetFlagTask, SetFlagTask, WaitForExactFlagResultTask

import lab
from tasks import Gate, Trace

NAME = "meeting"


class Meet(Task):
    """Asks until all five have arrived, and gives each status it was answered with."""

    def run(self):
        import os
        import time

        import requests

        gateway, experiment = (os.environ[f"NETUNICORN_{of}"] for of in ("GATEWAY_ENDPOINT", "EXPERIMENT_ID"))
        seen = set()
        while True:
            answer = requests.get(f"{gateway}/api/v1/experiment/{experiment}/flag/arrived")
            seen.add(answer.status_code)
            if answer.ok and answer.json()["int_value"] >= 5:
                return sorted(seen)
            time.sleep(0.2)


def meeting(node):
    last = [Gate("gate"), Trace("opened")] if node.name == "node-5" else []
    all_here = FlagValues(int_value=5)
    return lab.pipeline(
        GetFlagTask("go", name="read"),
        SetFlagTask(f"here-{node.name}", FlagValues(text_value=node.name, int_value=-7)),
        *last,
        AtomicIncrementFlagTask("arrived"),
        Meet(name="met"),
        WaitForExactFlagResultTask("arrived", all_here, name="waited"),
    )


if lab.arguments == ["begin"]:
    lab.prepare(NAME, lab.each(meeting, 5))
    lab.client.set_flag_values(NAME, "go", FlagValues(text_value="to the top", int_value=3))
    lab.client.start_execution(NAME)
    lab.say("begun")
else:
    finished = lab.told(lab.finish(NAME))
    here = lab.client.get_flag_values(NAME, "here-node-3")
    arrived = lab.client.get_flag_values(NAME, "arrived")
    unset = lab.refusal(lab.client.get_flag_values, NAME, "nobody")
    flags = [[flag.text_value, flag.int_value] for flag in (here, arrived)]
    lab.say({**finished, "flags": flags, "unset": unset})
