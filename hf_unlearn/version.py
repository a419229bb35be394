"""The version of the package and where it is at home, where everything may read it."""

__version__ = "0.4.0"

REPOSITORY = ""
"""Address of the repository, as ``https://github.com/OWNER/NAME``; empty while it has no public one.

The only place to set it: cards, the links beside a release on the package index, and the links of the README there are
made from it. Where it is empty, a release is made with the address that GitHub names to the workflow.
"""
