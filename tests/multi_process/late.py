"""One of two processes; process 1 misses the barrier that process 0 waits at."""

import os
import time

import jax

from ivx.errors import UserError
from ivx.parallel import hosts

if __name__ == "__main__":
    hosts.join(seconds=300)
    if jax.process_index() == 1:
        time.sleep(600)
    try:
        hosts.wait("save", seconds=2)
    except UserError as error:
        print(error, flush=True)
        # As the loop does (ivx.training.health.failures): a clean exit would wait again.
        os._exit(2)
