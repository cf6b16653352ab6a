"""HTCondor on a manager: is the collector alive, may the negotiator run, are the standbys warm."""
