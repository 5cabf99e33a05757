"""Runs a Python program with a soft and a hard limit of descriptors."""

import os
import resource
import sys

limits = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
