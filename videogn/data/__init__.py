"""Videos: manifests, decoding, sampling, augmentation, order."""
