"""From one host to many: what starts a run's processes on every host, and the commands and manifests that start that.

A host's launcher is :mod:`.agent`, which reads its part from the environment (:mod:`.rendezvous`) and looks after torchrun.
``ibnorm launch`` asks :mod:`.request` whether a layout can work, and one of :mod:`.targets` for the text that starts it.
"""
