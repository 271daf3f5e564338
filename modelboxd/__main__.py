"""`python -m modelboxd` is the command `modelbox`."""

import sys

from modelboxd.cli import main

sys.exit(main())
