"""Data sets: from files to the batches of a training step."""

BUILT_IN = ("points", "folder", "digits")  # every other name is a data set of tensorflow-datasets
