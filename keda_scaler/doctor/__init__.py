"""`keda-scaler doctor`: what is in use, and what is wrong between a scaler, its sources and KEDA.

Nothing is changed anywhere. Every check is bounded in time, and one that cannot be made says why.
"""
