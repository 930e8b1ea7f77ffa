"""The program a zygote is started with, and the frame its guests run in.

Executed by path, not imported. Its own package is found through the path of this file, and is forgotten again in every
guest before anything a user wrote runs.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.pop(0)  # the directory of this file
    own_path = [each for each in sys.path if not each.endswith(("site-packages", "dist-packages"))]
    package_root = os.path.abspath(__file__).rsplit("/", 4)[0]
    sys.path.insert(0, package_root)
    from clawplane.sandbox.inside import entry, zygote

    entry.run(zygote.serve(own_path, entry.rehearse))
