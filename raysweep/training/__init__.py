"""Training of generators and classifiers, and the loss terms."""
