"""`python -m tfxfer._try`."""

import sys

from tfxfer._try import main

if __name__ == "__main__":
    sys.exit(main())
