"""From a photograph to an aligned crop: detect, align, dense landmarks, parsing mask."""
