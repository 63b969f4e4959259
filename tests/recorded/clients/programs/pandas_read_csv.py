"""pandas.read_csv by URL: urllib of the standard library."""

import os

import pandas as pd

for _ in range(int(os.environ["TIMES"])):
    pd.read_csv(os.environ["URL"])
print(pd.__version__)
