"""Where results are kept: whole files on a disk, and object stores that keep the same promises."""
