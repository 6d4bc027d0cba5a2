"""Loaded by every Python that starts inside the miniature world, because this folder leads its PYTHONPATH."""
import importlib.machinery
import importlib.util
import os
import sys


def _load_the_one_we_hide():
    """Run the `sitecustomize` that Python would have found without ours (Debian ships one; tools may add theirs)."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get("MCVP_OFFLINE") == "1":
    import mcvp_guard

    if os.environ.get("MCVP_DEVICE") == "simulated":
        import mcvp_device

        mcvp_guard.HOOKS["torch"] = mcvp_device.install
    mcvp_guard.close()
    if any("-packages/ray/" in argument.replace("\\", "/") for argument in sys.orig_argv):  # one of Ray's processes
        sys.modules["rfc3987_syntax"] = None  # jsonschema would build its grammar: over a second, in each of thirty
_load_the_one_we_hide()
