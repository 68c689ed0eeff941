"""Training, evaluation and what keeps them safe; knows nothing of configs, networks or videos."""
