"""``python -m hf_unlearn``, also under ``accelerate launch ... -m hf_unlearn``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
