"""The guard: the parent of a node's other processes, which acts in control's name when control dies or freezes."""
