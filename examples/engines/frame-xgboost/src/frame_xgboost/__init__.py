"""The engine xgboost for Frame."""
