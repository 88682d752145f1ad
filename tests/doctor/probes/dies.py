"""Says what it knows of torch, and crashes as a library does that was built for another machine."""

import json
import os

backends = {"gloo": True, "nccl": False, "mpi": False}
print("a library's own words")
print(
    json.dumps({"what": "torch", "version": "2.9.0", "cuda": None, "hip": None, "backends": backends, "nccl": None}), flush=True
)
os.abort()
