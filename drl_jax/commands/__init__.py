"""The commands of the program, each in a module: they put an experiment together and run it."""
