"""One process of a run that locks a workdir: prints "held", or exits with 2 and says why."""

import pathlib
import sys
import time

from ivx.errors import UserError
from ivx.parallel import hosts, run_lock
from ivx.training.health import failures


def main(workdir: str) -> None:
    hosts.join(60)
    try:
        with run_lock.hold(pathlib.Path(workdir)):
            print("held", flush=True)
            time.sleep(1)
            hosts.wait("the end", 60)
    except UserError as error:
        failures.leave_on_failure(type(error), error, None)


if __name__ == "__main__":
    main(sys.argv[1])
