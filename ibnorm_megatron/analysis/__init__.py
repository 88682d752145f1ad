"""What a trained model does, asked of its checkpoint: losses of held-out documents under quantisation, noise and other text."""
