"""`keda-scaler lint`: what makes a ScaledObject misbehave, found before it does.

documents, cluster: where ScaledObjects come from, with line numbers. subject: one of them, read as
KEDA and the scaler read it. rules: pure functions of a subject. check: all rules over all subjects.
output, command: how it is said. catalogue: docs/lint.md.
"""
