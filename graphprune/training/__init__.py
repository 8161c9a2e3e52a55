"""Pruning while fine-tuning: in a user's own Trainer, or as a run of its own.

``config.py`` the settings · ``pruner.py`` what happens at each step, in any loop · ``masking.py`` zeros in place ·
``compaction.py`` cuts in place · ``wholeness.py`` state dicts of what was cut ·
``metrics.py`` what loggers see of it ·
``callback.py`` the same inside ``transformers.Trainer`` · ``finetune.py`` a run with checkpoints · ``checkpoint.py``
what they hold.
"""
