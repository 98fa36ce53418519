"""`--workers N`: a supervisor that proxies nothing, and N proxies as processes of their own on the same addresses.

supervisor: forks the workers, forks those again that die, and ends them all · worker: such a process · folder: the private
folder of all · report_files: what each writes there of itself, and reads of the others · log: the supervisor's own lines.
"""
