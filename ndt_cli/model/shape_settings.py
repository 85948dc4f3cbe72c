"""Which settings decide the shapes of a network's weights and of its batches."""

# Networks that differ in none of these have weights of the same shapes, and can be stacked and
# trained as one batched model; a test builds networks to compare. The batch size stands here
# because it is the leading axis of every activation.
SHAPE_SETTINGS = (
    "model.embedding",
    "model.embedding_size",
    "model.width",
    "model.positions",
    "model.n_layers",
    "model.n_heads",
    "model.feedforward_size",
    "model.norm",
    "model.readout",
    "model.loss",
    "train.batch_size",
)
