"""A long-lived worker process for interactive front ends, and the client that talks to it.

``messages``, ``arrays``, ``process`` and ``client`` run in the front end and never import torch; ``server`` and ``jobs`` run
in the worker. The protocol is described in ``Resources/Docs/worker.md``.
"""
