"""``runtime_env``: the variables, folders and packages that the processes of an application or deployment have.

A replica is a fork of the supervisor, which has imported nothing of the user's. So an environment is not an
interpreter of its own: it is what is set before the user's code is imported (variables, the current folder) and where
that is looked for (``sys.path``). ``resolve`` makes a ``CodeContext`` of it, in the process that builds the
application; replicas only follow that. Whatever takes time happens there, once: archives are unpacked and packages
are installed into folders of a cache that are named by a hash of their contents.

What Salver itself has imported (click, cloudpickle, msgspec, pydantic, starlette, uvloop …) is there already in every
replica, so ``pip`` cannot replace it.

Local folders are used where they are, not copied: of other files than sources, replicas that are started later find
what is there then. Their sources are part of a deployment's version, and travel with it.
"""

from __future__ import annotations

from salver.serve.runtime_env.fields import check_runtime_env, merge_runtime_env
from salver.serve.runtime_env.resolving import resolve

__all__ = ["check_runtime_env", "merge_runtime_env", "resolve"]
