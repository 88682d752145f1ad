"""What every rank of a run or of a worker here needs, imported once by the server that they are forked from."""

import gc
import threading

from ibnorm_megatron.checkpoints import convert, reader, writer  # noqa: F401
from ibnorm_megatron.data import dataset, loader, tokenizer  # noqa: F401
from ibnorm_megatron.train import checkpoint, liveness, loop, run  # noqa: F401
from ibnorm_megatron.train.callbacks import audit, average, console, evaluate, norm_cost, records, traffic, wandb_records  # noqa: F401
from ibnorm_megatron.verify import warm  # noqa: F401

assert threading.active_count() == 1, "threads do not survive a fork, but the locks that they hold do"
gc.collect()
gc.freeze()  # so that a rank's first collection does not touch, and so copy, all of these pages
