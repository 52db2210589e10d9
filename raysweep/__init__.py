"""Ray-distributed sweeps of face anonymizers against a privacy-utility objective."""

__version__ = "0.1.0"
