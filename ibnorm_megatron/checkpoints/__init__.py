"""The format of a checkpoint: safetensors files and one record, whole or not there, for any layout to open.

A checkpoint is a folder. ``rank-NNNNN.safetensors`` holds what one rank answered for when it was written: runs of elements
of float32 weights and Adam's moments, flattened, under ``KIND/NAME``; that rank's random-number states under ``random/``;
and buffers. ``checkpoint.json`` says whose shard each run is of, how shards make up the logical tensors, how long and which
hash every file has, and everything else that a run needs. Nothing is ever unpickled.
"""
