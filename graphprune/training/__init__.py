"""Pruning while fine-tuning."""
