"""Makes a folder from which an engine without a registry builds an image that stands for Python's own: this Python with
all that it has, busybox for a shell, and package managers that do nothing. Called with the folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

folder = sys.argv[1]
root = os.path.join(folder, "root")
# What no executor needs, and site-packages within the standard library, which are named apart.
LEFT_OUT = ["__pycache__", "test", "tests", "idlelib", "ensurepip", "lib2to3", "config-*", "pip", "*-packages", "*.a"]


def place(source):
    """Copies a file or a folder to the same place below the root."""
    to = root + source
    os.makedirs(os.path.dirname(to), exist_ok=True)
    if os.path.isdir(source):
        shutil.copytree(source, to, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    elif not os.path.exists(to):
        shutil.copy(source, to)


def program(name, text):
    path = os.path.join(root, "bin", name)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


python, busybox = os.path.realpath(sys.executable), shutil.which("busybox")
packages = [path for path in sys.path if path.endswith("-packages")]
for source in [python, sysconfig.get_path("stdlib"), *packages]:
    place(source)
binaries = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names if name.endswith(".so")]
for binary in [python, busybox, *binaries]:
    said = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(", said):
        place(library)
os.makedirs(os.path.join(root, "bin"), exist_ok=True)
shutil.copy(busybox, os.path.join(root, "bin/sh"))
for name in ["apt-get", "pip"]:
    program(name, f"#!/bin/sh\necho {name} \"$@\"\n")
program("python3", f'#!/bin/sh\nexec {python} "$@"\n')
for name in ["tmp", "proc", "dev", "etc"]:
    os.makedirs(os.path.join(root, name), exist_ok=True)
with open(os.path.join(folder, "Containerfile"), "w") as file:
    file.write(f"FROM scratch\nCOPY root /\nENV PATH=/bin PYTHONPATH={':'.join(packages)}\n")
