"""The worker process; started by this file's path, not as a module: see `Worker._start`."""

import os
import sys

if __name__ == "__main__":
    # Python put this file's folder first; the one that holds `rewards` takes its place, before the working directory
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    from rewards.sandbox.worker import main

    del sys.path[0]  # the modules that a reward imports are found as in the parent
    main(sys.argv[1:])
