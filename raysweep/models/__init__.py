"""Networks that measure: the zoo of weights, embedders, expression models, perceptual distance."""
