"""Print the accuracy of a saved model: `python evaluate.py FOLDER`."""

import argparse
import pathlib
import sys

import numpy as np
from train import accuracy, load_data

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=pathlib.Path, help="where model.npz lies")
parser.add_argument("--expect", type=float, metavar="ACCURACY", help="fail if it is another one")
args = parser.parse_args()

_, _, test_x, test_y = load_data()
with np.load(args.folder / "model.npz") as model:
    found = accuracy(model, test_x, test_y)
print(f"accuracy {found!r}")
if args.expect is not None and not abs(found - args.expect) <= 1e-9:
    sys.exit(f"expected {args.expect!r}")
