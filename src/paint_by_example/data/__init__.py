"""Training data: masks, exemplar augmentation, the self-supervised dataset, and where its pictures come from."""
