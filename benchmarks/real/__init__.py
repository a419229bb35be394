"""Methods on a real pretrained model."""
