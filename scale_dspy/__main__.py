"""`python -m scale_dspy` is `scale-dspy`."""

import sys

from scale_dspy.cli.main import main

sys.exit(main())
