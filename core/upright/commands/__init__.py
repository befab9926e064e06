"""One file per command of the command line. Heavy imports stay inside the functions."""
