"""What the engine costs beyond its kernels, measured on this machine: one idea a file; `goals` says what there is."""
