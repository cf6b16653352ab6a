"""The lab's pool on virtual machines: brought up by Vagrant, broken from outside, and taken away again.

Unlike the lab in namespaces no two hosts share a kernel, so that a host may be suspended, or lose its power.
"""
