"""Contract suites that the author of a plug-in inherits. They need pytest."""

from raysweep.testing.anonymizer import AnonymizerContract
from raysweep.testing.attacker import AttackerContract
from raysweep.testing.metric import MetricCase, MetricContract

__all__ = ["AnonymizerContract", "AttackerContract", "MetricCase", "MetricContract"]
