"""The command line: `python -m tfxfer`, or the script `tfxfer`."""

import sys

from tfxfer._command import main

if __name__ == "__main__":
    sys.exit(main())
