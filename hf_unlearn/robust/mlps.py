"""Where an MLP ends, by name."""

MLP_OUTPUTS = frozenset({"down_proj", "fc2", "fc_out", "dense_4h_to_h", "c_proj", "w2", "wo", "output_linear"})
"""Names of the last linear map of an MLP (or of its experts) in the model families of transformers."""
