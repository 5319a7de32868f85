"""Settings of a run: keys and allowed values, the command line, and the parts that they describe."""
