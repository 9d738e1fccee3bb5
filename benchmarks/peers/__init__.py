"""Caches that a user would pick instead, measured in a process and an environment of their own.

``__main__`` runs in that environment and answers orders; ``client`` runs in ours and gives them.
"""
