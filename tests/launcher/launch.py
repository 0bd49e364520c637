"""A launcher in a process of its own: python -m tests.launcher.launch FILES OPTIONS (pickled)."""

from __future__ import annotations

import os
import pickle
import sys

from hyperbuild.launcher.vm import run_vm

if __name__ == "__main__":
    files, options = (pickle.loads(bytes.fromhex(text)) for text in sys.argv[1:3])  # noqa: S301
    sys.exit(run_vm(files, options, search_path=os.environ["PATH"]).status)
