"""Tables for people and descriptions for machines."""
