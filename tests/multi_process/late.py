"""A process of two: joins, and waits at a barrier to which the other does not come."""

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
        # As the loop does (ivx.training.company): leaving in good order would wait again.
        os._exit(2)
