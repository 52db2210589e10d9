"""CIAGAN: the face region is blacked out, a generator draws another one from the landmarks, the surroundings and a target identity."""
