"""``python -m duramen.cli``."""

import sys

from duramen.cli import main

sys.exit(main())
