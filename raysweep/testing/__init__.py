"""Contract suites that the author of a plug-in inherits."""
