"""`python run.py --cfg i3d_gn_64f.yaml`: trains, tests, predicts and reports; see --help."""

import sys

from videogn.cli import main

if __name__ == "__main__":
    sys.exit(main())
