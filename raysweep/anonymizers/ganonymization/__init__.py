"""GANonymization: the photograph is thrown away, a generator draws a new face from the landmarks."""
