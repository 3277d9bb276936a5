"""The scenario file: what a person writes down about a training run, read strictly."""
