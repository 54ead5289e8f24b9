"""Videos: decode → enhance → encode with PyAV, everything else in the file kept."""
