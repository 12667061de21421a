"""Confinement: what the kernel keeps an engine from, before the first byte of a model is parsed in it.

`policy` says what an engine may do, `enforce` puts it into force in the process that then becomes the engine, with
`landlock` (files, TCP, signals), `seccomp` (system calls), and what every Unix has (user, capabilities, limits).
"""
