"""Contract suites that the author of a plug-in inherits. They need pytest."""

from raysweep.testing.anonymizer import AnonymizerContract

__all__ = ["AnonymizerContract"]
