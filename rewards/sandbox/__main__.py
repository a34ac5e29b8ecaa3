"""`python -m rewards.sandbox`: the worker process."""

import sys

from rewards.sandbox.worker import main

if __name__ == "__main__":
    main(sys.argv[1:])
