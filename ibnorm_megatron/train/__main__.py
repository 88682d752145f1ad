"""``python -m ibnorm_megatron.train``: the launch target."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
