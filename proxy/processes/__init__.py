"""`--workers N`: a supervisor that proxies nothing, and N proxies as processes of their own on the same addresses.

supervisor: forks the workers, forks those again that die, and ends them all · worker: such a process · folder: where each
tells the others of itself · admin: what any of them answers for all · summed_metrics, summed_status: sums, without I/O.
"""
