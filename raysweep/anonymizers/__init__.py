"""One method a file; a folder where a network comes with it."""
