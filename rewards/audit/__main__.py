"""`python -m rewards.audit`."""

import sys

from rewards.audit.audit import main

if __name__ == "__main__":
    sys.exit(main())
