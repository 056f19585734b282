"""From files to batches: decoding, cropping and augmentation for `tf.data`."""
