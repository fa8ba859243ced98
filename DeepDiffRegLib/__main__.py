"""``python -m DeepDiffRegLib`` is the ``deepdiffreg`` command."""

import sys

from .cli.main import main

sys.exit(main())
