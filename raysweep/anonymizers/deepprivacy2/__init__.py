"""DeepPrivacy2: the face is cut out, a generator paints another one into its surroundings."""
