"""What the adapters share: one pooled client, decoders of answers, and what failures mean."""
