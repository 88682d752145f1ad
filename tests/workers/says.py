"""Says how it was started, and ends as it is told: ``python -m tests.workers.says CODE``, or ``wait``."""

import json
import os
import signal
import sys
import threading

if __name__ == "__main__":
    environ = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "OF_THE_TEST")}
    print(json.dumps({"pid": os.getpid(), "folder": os.getcwd(), "arguments": sys.argv[1:], "environ": environ}), flush=True)
    print("more of it", file=sys.stderr)
    if sys.argv[1] == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        threading.Event().wait()
    sys.exit(int(sys.argv[1]))
