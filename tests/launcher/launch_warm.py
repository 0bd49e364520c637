"""As launch.py, with templates: ROOT HOLD FILES OPTIONS make one; an empty HOLD starts a copy."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from hyperbuild.launcher.machine import Hold
from hyperbuild.launcher.template import Templates
from hyperbuild.launcher.vm import Streams, WarmStart, run_vm
from hyperbuild.launcher.warming import make_template

if __name__ == "__main__":
    templates = Templates(Path(sys.argv[1]))
    files, options = (pickle.loads(bytes.fromhex(text)) for text in sys.argv[3:5])  # noqa: S301
    search_path = os.environ["PATH"]
    if sys.argv[2]:
        make_template(
            files,
            options,
            Hold(sys.argv[2]),
            templates,
            search_path=search_path,
            streams=Streams(),
        )
    else:
        result = run_vm(
            files,
            options,
            search_path=search_path,
            streams=Streams(stdin=0),
            warm=WarmStart(templates, required=True),
        )
        sys.exit(result.status)
