"""Bytes by the megabyte, to a node and from one, and more than may be."""

import hashlib
import random

from netunicorn.base import Experiment, Task

import lab
from tasks import Value

SIZE = 20_000_000


class Large(Task):
    """Gives many bytes."""

    def run(self):
        import random

        return random.Random(2).randbytes(20_000_000)


class Digest(Value):
    """Gives the digest of the bytes that came with it."""

    def run(self):
        import hashlib

        return hashlib.sha256(self.value).hexdigest()


def digest(seed):
    return hashlib.sha256(random.Random(seed).randbytes(SIZE)).hexdigest()


one, two = lab.client.get_nodes().take(2)
experiment = Experiment()
experiment.append(one, lab.pipeline(Digest("came", random.Random(1).randbytes(SIZE))))
experiment.append(two, lab.pipeline(Large(name="left")))
finished = lab.told(lab.run("large", experiment))

before = sorted(lab.client.get_experiments())
many = Experiment().map(lab.pipeline(Value("many", bytes(17_000_000))), [one, two, two])
refused = lab.refusal(lab.client.prepare_experiment, many, "too-large")
unchanged = sorted(lab.client.get_experiments()) == before
lab.say({**finished, "digests": [digest(1), digest(2)], "refused": refused, "unchanged": unchanged})
