"""Samples of a model measured against a data set."""
